"""Ray as a script sees it: our settings are there before Ray reads them; no start is one line.

What a Ray does on an odd machine, and how it dies, is in test_surroundings.py.
"""

import os
import subprocess
import sys
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
