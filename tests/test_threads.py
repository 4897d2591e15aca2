"""A thread that dies says so: each one is killed by an error that nobody expects, and is heard.

Pools are not in the table: `map` and `result` raise what a task raised. Nor is the watchdog's
Timer, which does nothing but end the process.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.checks import doctor
from pipelines.cli import ray_watch
from pipelines.tracking import spool, tracker
from pipelines.worker import saver, watchdog
from pipelines.worker.background import Background

ROOT = Path(__file__).parents[1]
STARTS = re.compile(r"threading\.Thread\(|\(threading\.Thread\b")


class Unexpected(BaseException):
    """Not even an Exception, as a SystemExit of some library is none."""


def die(*arguments: object, **options: object) -> Any:
    raise Unexpected("of all things")


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    return SimpleNamespace(set=monkeypatch.setattr, folder=tmp_path)


def told(found: Callable[[], str]) -> str:
    """What is said as soon as something is."""
    end = time.monotonic() + 10
    while not (text := found()):
        assert time.monotonic() < end, "nothing was said"
        time.sleep(0.01)
    return text


def saver_to_the_loop(patch: SimpleNamespace) -> str:
    """`Survival.settle` stops all ranks with this text: tests/pipelines/worker/test_survival.py."""
    patch.set(saver, "write_part", die)
    one = saver.Saver(str(patch.folder), rank=0, world_size=1, token="t", keep=1)
    one.save(1, [])
    one.finish()
    return one.failure or ""


def watchdog_to_the_loop(patch: SimpleNamespace) -> str:
    patch.set(watchdog.Watchdog, "_wait_for_silence", die)
    dog = watchdog.Watchdog(str(patch.folder), rank=0, world_size=1, seconds=60)

    def beat() -> str:
        try:
            dog.beat(1, "train")
        except RuntimeError as error:
            return f"{error}: {error.__cause__!r}"
        return ""

    return told(beat)


def background_to_who_asks(patch: SimpleNamespace) -> str:
    """The streams of a worker, the training in the driver, the stages of a campaign."""
    with pytest.raises(Unexpected) as raised:
        Background(die).result()
    return str(raised.value)


def ray_watch_to_the_terminal(patch: SimpleNamespace) -> str:
    lines: list[str] = []
    patch.set(ray_watch, "LOOK_SECONDS", 0.01)
    patch.set(ray_watch, "_dead", die)
    patch.set(ray_watch.sys, "stderr", SimpleNamespace(write=lines.append, flush=lambda: None))
    with ray_watch.watched(None):
        return told(lambda: "".join(lines))


def delivery_to_the_terminal(patch: SimpleNamespace) -> str:
    patch.set(spool.Spool, "_deliver_all", die)
    return notice_of(patch, lambda run: None)


def samples_to_the_terminal(patch: SimpleNamespace) -> str:
    patch.set(tracker, "SYSTEM_SECONDS", 0.01)
    return notice_of(patch, lambda run: run.watch(die, "system/"))


def notice_of(patch: SimpleNamespace, begin: Callable[[tracker.Tracker], None]) -> str:
    """What a tracker has to tell, which the driver prints with the progress."""
    server: Any = SimpleNamespace(name="a server")
    run = tracker.Tracker(server, "r", patch.folder / "r.jsonl")
    run.start()
    begin(run)
    try:
        return told(lambda: "".join(run.notices()))
    finally:
        run.release()


def check_to_the_table(patch: SimpleNamespace) -> str:
    (found,) = doctor.examine(SimpleNamespace(), [die], seconds=30)  # type: ignore[arg-type]
    assert found.status == "FAIL"
    return found.text


THREADS = {
    "pipelines/worker/saver.py": saver_to_the_loop,
    "pipelines/worker/watchdog.py": watchdog_to_the_loop,
    "pipelines/worker/background.py": background_to_who_asks,
    "pipelines/cli/ray_watch.py": ray_watch_to_the_terminal,
    "pipelines/tracking/spool.py": delivery_to_the_terminal,
    "pipelines/tracking/tracker.py": samples_to_the_terminal,
    "pipelines/checks/doctor.py": check_to_the_table,
}


def test_every_thread_is_in_the_table() -> None:
    found = {
        str(path.relative_to(ROOT)): len(STARTS.findall(path.read_text()))
        for room in ("pipelines", "cluster", "storage", "vit")
        for path in (ROOT / room).rglob("*.py")
    }
    assert {name: count for name, count in found.items() if count} == dict.fromkeys(THREADS, 1)


@pytest.mark.parametrize("file", THREADS)
def test_a_thread_that_dies_says_so(file: str, patch: SimpleNamespace) -> None:
    assert "of all things" in THREADS[file](patch)
