"""Exit codes: a mistake is a line and 2, the world's failure a line and 1, ours a file and 1."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import BadPlace
from pipelines.cli.exits import Failed, errors_as_exits
from pipelines.recipes.errors import Mistake
from storage.errors import BadDataset, Unavailable
from tests.pipelines.conftest import Said
from vit.errors import BadModel


def ended(error: BaseException, capsys: pytest.CaptureFixture[str]) -> Said:
    with pytest.raises(SystemExit) as stop, errors_as_exits(stopped="stopped; go on"):
        raise error
    said = capsys.readouterr()
    return Said(int(stop.value.code or 0), said.out, said.err)


@pytest.mark.parametrize("kind", [Mistake, BadPlace, BadDataset, BadModel])
def test_a_mistake_is_one_line_and_2(
    kind: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(kind("it\nis wrong"), capsys) == Said(2, "", "error: it is wrong\n")


@pytest.mark.parametrize("kind", [Failed, Unavailable])
def test_a_failure_of_the_world_is_one_line_and_1(
    kind: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(kind("it is down"), capsys) == Said(1, "", "error: it is down\n")


def test_a_stop_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(KeyboardInterrupt(), capsys) == Said(130, "", "stopped; go on\n")


@pytest.mark.parametrize("kind", [ValueError, KeyError, RuntimeError, OSError])
def test_what_nobody_foresaw_is_1_with_its_traceback_in_a_file(
    kind: type[Exception],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    said = ended(kind("of planted-secret"), capsys)
    (log,) = tmp_path.iterdir()
    assert said.code == 1
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith(f"error: {kind.__name__}: ")
    assert str(log) in said.err
    text = log.read_text()
    assert text.startswith("Traceback (most recent call last):")
    assert "    raise error\n" in text
    assert "planted-secret" not in text + said.err


def test_a_full_disk_leaves_the_traceback_on_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    said = ended(ValueError("odd"), capsys)
    assert said.code == 1
    assert "Traceback" in said.err
    assert said.err.splitlines()[-1] == "error: ValueError: odd - this is a bug, please report it"


def test_a_closed_pipe_ends_a_script_quietly() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -P pipelines/plan.py --help | true; echo $PIPESTATUS"],
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert done.stdout == "141\n"


# Arguments that only a fault of this code can get wrong: no user ever sees them.
_OURS = {
    "vit/attention.py",
    "vit/augment.py",
    "vit/losses.py",
    "vit/model.py",
    "vit/optim.py",
    "vit/resample.py",
    "pipelines/campaigns/studies/conclusions.py",
    "pipelines/evaluation/fewshot.py",
}


def test_a_mistake_is_raised_as_one() -> None:
    """A bare ValueError would end in 1 and a traceback: BadModel, BadInput, BadPlace, Mistake."""
    bare = set()
    for package in ("vit", "storage", "cluster", "pipelines"):
        for path in Path(package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Raise) and ast.unparse(node).startswith("raise ValueError"):
                    bare.add(str(path))
    assert bare <= _OURS
