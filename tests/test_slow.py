"""The slow tests, which `make test` leaves out, can at least begin."""

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def test_slow_tests_find_their_fixtures() -> None:
    """A fixture that moved left all of `tests/faults` unable to run."""
    marked = [path for path in TESTS.rglob("test_*.py") if "mark.slow" in path.read_text()]
    assert len(marked) > 10
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "slow", "--setup-plan", "-p", "no:cacheprovider"]
        + [str(path) for path in marked if path != Path(__file__)],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
