# make demo       install, then run the three stages on handwritten digits, on this machine's CPU
# make setup      only install into .venv (every other target does this first)
# make check      what CI runs: formatting, lint, types, layers, tests
# make test       the tests: those with a Ray beside the others
# make test-slow  those that take minutes
# make mlflow     show the runs on http://127.0.0.1:5000
# make lock       write the installed versions into constraints.txt

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The tests start hundreds of processes: compiled modules are kept even where the environment says no.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo test test-rest test-ray test-slow check lint mlflow lock

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	# Tests compare our numbers with timm's. Without --no-deps it would install torchvision, and with it another torch.
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps timm
	touch $@

demo: $(READY)
	pipelines/pack.py digits
	pipelines/pipeline.py --recipe digits

test: $(READY)
	@$(MAKE) --no-print-directory --keep-going -j2 test-rest test-ray

# The tests with a Ray take longer but often wait; these fill the gaps. (Ray's workers have niceness 15.)
test-rest: $(READY)
	OMP_NUM_THREADS=1 nice -n 19 pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder -m 'not ray and not slow'

test-ray: $(READY)
	pytest -m 'ray and not slow'

test-slow: $(READY)
	pytest -m slow

lint: $(READY)
	ruff format --check .
	ruff check .
	pyright
	pyright --project .ci/pyright-strict.json
	lint-imports

check: lint test

mlflow: $(READY)
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port 5000

lock: $(READY)
	{ echo '# The whole set that was tested, made by `make lock`.'; pip freeze --exclude-editable | sed 's/+cpu$$//; s/ @ file:.*torch-\([0-9.]*\).*/==\1/'; } > constraints.txt
