"""Ray as a script sees it: our settings are there before Ray reads them, a local Ray leaves nothing
in the home, and one that does not start, or dies, is one line.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from pipelines.cli import ray_session as module
from pipelines.cli.exits import Failed
from pipelines.cli.ray_session import ray_session


def without_ray() -> dict[str, str]:
    """The environment, without what a Ray of the test session left in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def test_settings_are_made_before_ray_is_imported() -> None:
    """`pipelines/__init__.py` makes them, whichever module is imported first."""
    code = (
        "import pipelines.packing.ray_tasks\n"
        "from ray._private import ray_logging\n"
        "line = 'WARNING: 8 PYTHON worker processes have been started on node: x'\n"
        "batch = {'ip': 'x', 'pid': 'raylet', 'lines': [line, 'another']}\n"
        "(shown,) = ray_logging.stderr_deduplicator.deduplicate(batch)\n"
        "print(shown['lines'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=without_ray(), capture_output=True, text=True
    )
    assert done.stdout == "['another']\n", done.stderr


KILLED = """
import time

import psutil
import ray

from pipelines.cli.exits import errors_as_exits
from pipelines.cli.ray_session import ray_session

with errors_as_exits(), ray_session(verbose=False, num_cpus=1):
    name = ray.remote(lambda: "a task ran")
    print(ray.get(name.remote()), flush=True)
    (part,) = [c for c in psutil.Process().children(recursive=True) if c.name() == "raylet"]
    part.kill()
    sleep = ray.remote(lambda: time.sleep(60))
    while True:
        try:
            ray.get(sleep.remote(), timeout=1)
        except ray.exceptions.GetTimeoutError:
            pass
"""


@pytest.mark.ray
def test_a_ray_without_home_and_with_a_long_temporary_folder_works_and_its_death_is_one_line(
    tmp_path: Path,
) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        env=without_ray() | {"HOME": "/dev/null", "TMPDIR": str(long), "RAY_ADDRESS": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert "a task ran" in done.stdout, done.stderr
    note, *_, last = done.stderr.splitlines()
    assert note.startswith("note: ")
    assert "too long for Ray's sockets" in note
    assert last.startswith("error: Ray's raylet on this machine died (process ")
    assert last.endswith("run the same command again to continue from the last save")
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process were connected to none."""
    monkeypatch.setattr(module.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(module.ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_a_ray_that_is_too_slow_to_start_is_tried_again_and_then_one_line(
    no_ray: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tries: list[Any] = []

    def slow(*arguments: Any, **options: Any) -> None:
        tries.append(arguments)
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", slow)
    with pytest.raises(Failed, match=r"did not start .*, 2 times.*load average .*again") as caught:
        ray_session(verbose=False).__enter__()
    assert len(tries) == 2
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().err.count("trying once more") == 1


def test_a_mistake_in_starting_ray_is_not_tried_again(
    no_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: Any, **options: Any) -> None:
        raise TypeError("ours")

    monkeypatch.setattr(ray, "init", wrong)
    with pytest.raises(TypeError, match="ours"):
        ray_session(verbose=False).__enter__()


def test_a_slow_raylet_is_waited_for_longer_than_ray_does(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([RuntimeError("not yet"), RuntimeError("not yet"), {"node": 1}])

    def get_node(*arguments: Any) -> Any:
        answer = next(answers)
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    monkeypatch.setattr(module.services, "get_node", get_node)
    with module._patience():
        assert module.services.get_node("address", "id") == {"node": 1}
    assert module.services.get_node is get_node
