# make demo    set up and run the three stages on real digits, on this machine's CPU
# make test    set up and run the tests          make test-slow   the minutes-long ones
# make check   what CI runs: format, lint, types, layers, tests
# make mlflow  browse the runs on http://127.0.0.1:5000
# make lock    pin what is installed in constraints.txt

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test test-slow check lint mlflow lock

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	# a peer of the tests; its metadata demands torchvision, which demands another torch
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps timm
	touch $@

demo: $(READY)
	pipelines/pack.py digits
	pipelines/pipeline.py --recipe digits

test: $(READY)
	pytest -m 'not slow'

test-slow: $(READY)
	pytest -m slow

lint: $(READY)
	ruff format --check .
	ruff check .
	pyright
	lint-imports

check: lint test

mlflow: $(READY)
	mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port 5000

lock: $(READY)
	{ echo '# The whole set that was tested, made by `make lock`.'; pip freeze --exclude-editable | sed 's/+cpu$$//; s/ @ file:.*torch-\([0-9.]*\).*/==\1/'; } > constraints.txt
