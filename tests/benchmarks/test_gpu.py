"""The GPU kit runs where no GPU is, with models of two narrow blocks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import main

PARTS = ("env", "parity", "start", "curves", "resume", "host", "mfu", "save")


def test_every_check_passes_on_a_cpu(tmp_path: Path) -> None:
    """Also the checks of the numerics: parity, start weights, curves and a resume in bfloat16."""
    command = [sys.executable, "-m", "benchmarks.gpu", *PARTS, "--tiny", "--device", "cpu"]
    command += ["--json", str(tmp_path / "lines.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = json.loads((tmp_path / "lines.json").read_text())
    kinds = {name: line["kind"] for name, line in lines.items()}
    assert {name.split()[0] for name in kinds} >= {*PARTS[1:], "curve"} - {"curves"}
    passed = [name for name, kind in kinds.items() if kind == "ok"]
    assert {"start bfloat16 level 3", "resume level 1 deterministic", "parity b timm"} <= {*passed}
    assert lines["resume level 1 deterministic"]["text"].startswith("resumed 0.0e+00")
    assert f"{len(passed)} passed, 0 failed" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_commands_of_the_kit_pass_on_a_cpu(tmp_path: Path) -> None:
    """Each trains by way of a Ray of its own."""
    parts = ("memory", "stage", "killed", "modes")
    command = [sys.executable, "-m", "benchmarks.gpu", *parts, "--tiny", "--device", "cpu"]
    command += ["--json", str(tmp_path / "lines.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = json.loads((tmp_path / "lines.json").read_text())
    assert {name.split()[0] for name in lines} >= {*parts}
    assert {line["kind"] for line in lines.values()} == {"ok", "fig"}


def test_an_unknown_part_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", "speed"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "no part speed: there are env, parity" in capsys.readouterr().err
