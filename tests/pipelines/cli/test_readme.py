"""README and the pages for a newcomer, from top to bottom, as somebody whose home is new.

Each command line of these pages has a rule: options that make it small, or why it is not run here.
A line without a rule fails the fast test. What the other pages need is in docs/commands.md.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tests.storage.support.images import gradient
from tests.test_docs import blocks
from vit import ViTConfig, build_model, export_timm

ROOT = Path(__file__).parents[3]
PAGES = ("README.md", "docs/train-on-my-data.md", "docs/evaluate.md", "docs/studies.md")
CLASSES = 12
TINY = ViTConfig(image_size=32, width=48, depth=2, heads=3, mlp_dim=96, num_classes=10)

_SHORT = "--{0}.eval-every-steps 0 --{0}.optim.warmup-steps 1 --{0}.global-batch 16"
_DIGITS = f"--{{0}}.model.depth 1 {_SHORT}"
_PHOTOS = "--batch 32 --stage.eval-every-steps 0 --stage.precision float32"
_STAGES = ("pretrain", "upscale", "finetune")


@dataclass(frozen=True)
class Run:
    """A line that is run, with these options after its own."""

    options: str = ""


@dataclass(frozen=True)
class Needs:
    """A line that is not run here: what it needs, or where it is run."""

    what: str


# The first that fits counts. The order is that of the pages.
RULES: list[tuple[str, Run | Needs]] = [
    ("make (demo|setup)", Needs("a package index; `make demo` then runs DEMO, which is walked")),
    ("make mlflow", Needs("somebody who looks: it serves until it is stopped")),
    ("source .venv/bin/activate", Needs("the installation; it is on the path of the walk")),
    (r"ray (start|job submit)", Needs("tests/pipelines/cli/test_readme_cluster.py walks them")),
    (".*(--weights vit-|--size paper|vit-s16-baseline|vit-b16-imagenet1k )", Needs("GPUs, data")),
    (".*--recipe mae-b16", Needs("GPUs, days")),
    (r"pipelines/study.py \S+$", Needs("Fashion-MNIST and many minutes")),
    (r"pipelines/suite.py ", Needs("the demo's weights at full size, many minutes")),
    (r"pipelines/pack.py folder ", Run()),
    (r"pipelines/finetune.py .* --print-config > photos.yaml$", Run()),
    (r"pipelines/finetune.py --init .* --data photos ", Run(_PHOTOS)),
    (r"pipelines/upscale.py --stage.steps 50 ", Run(_DIGITS.format("stage"))),
    (r"pipelines/evaluate.py ?.*", Run()),
    (r".* --(help|help-all|print-config|plan)$", Run()),
    (r"pipelines/(plan|status|inspect_weights|report).py", Run()),
]  # fmt: skip
DEMO = (
    ("pipelines/pack.py digits", ""),
    (
        "pipelines/pipeline.py --recipe digits",
        " ".join(f"--{name}.steps 4 {_DIGITS.format(name)}" for name in _STAGES),
    ),
)


def lines(page: str) -> list[str]:
    """The command lines of a page's console blocks, in order, without their comments."""
    text = "\n".join(block for _, block in blocks(ROOT / page, "console")).replace("\\\n", " ")
    found = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    return [re.sub(r" +", " ", re.sub(r"\s+#.*", "", line)).strip() for line in found]


def rule_of(line: str) -> Run | Needs | None:
    return next((rule for pattern, rule in RULES if re.match(pattern, line)), None)


@pytest.mark.parametrize("page", PAGES)
def test_every_line_is_run_or_says_what_it_needs(page: str) -> None:
    assert [line for line in lines(page) if rule_of(line) is None] == []


def test_every_rule_has_a_line() -> None:
    there = [line for page in PAGES for line in lines(page)]
    used = {id(rule_of(line)) for line in there}
    assert [pattern for pattern, rule in RULES if id(rule) not in used] == []


def test_the_demo_is_what_make_demo_runs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    recipe = re.findall(r"^demo:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[0]
    assert [line.strip() for line in recipe.splitlines()] == [line for line, _ in DEMO]


def photographs(folder: Path) -> None:
    for number in range(CLASSES):
        (folder / f"class-{number}").mkdir(parents=True)
        for i in range(10):
            image = Image.fromarray(gradient(40 + i, 48))
            image.save(folder / f"class-{number}" / f"{i}.jpg")


@pytest.fixture
def walk(tmp_path: Path) -> Callable[[str], str]:
    """Run a command line in a copy of the repository, as a user with an empty home."""
    checkout, home, photos = tmp_path / "checkout", tmp_path / "home", tmp_path / "photos"
    for package in ("pipelines", "vit", "storage", "cluster"):
        shutil.copytree(ROOT / package, checkout / package)
    shutil.copy(ROOT / "ray_config.yaml", checkout)
    home.mkdir()
    photographs(photos)
    export_timm(build_model(TINY).state_dict(), TINY, checkout / "small")
    environment = {name: v for name, v in os.environ.items() if not name.startswith("RAY_")} | {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(checkout),
        "RAY_USAGE_STATS_ENABLED": "0",
    }

    def run(line: str) -> str:
        line = line.replace("/data/photos", str(photos))
        line = re.sub(r"hf://\S+", "small", line)  # the Hub's weights, in small and on the disk
        line, _, into = line.partition(" > ")
        done = subprocess.run(
            shlex.split(line), cwd=checkout, env=environment, capture_output=True, text=True
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"{line}\n{said[-6000:]}"
        assert "Traceback" not in said, f"{line}\n{said[-6000:]}"
        if into:
            (checkout / into.strip()).write_text(done.stdout)
        return said

    return run


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_pages_work_in_order_in_a_new_home(walk: Callable[[str], str]) -> None:
    """No cheaper test shows it: each line stands on what the lines before it left on the disk."""
    for line, options in DEMO:
        walk(f"{line} {options}")
    for line in (line for page in PAGES for line in lines(page)):
        rule = rule_of(line)
        if isinstance(rule, Run):
            walk(f"{line} {rule.options}")
