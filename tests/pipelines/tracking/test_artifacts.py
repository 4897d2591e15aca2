"""An artifact store that takes nothing: said once, given up, and the run ends all the same."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines.tracking import spool
from pipelines.tracking.advice import advice_for
from pipelines.tracking.history import MetricPoint
from pipelines.tracking.tracker import FINISHED, Tracker


class NoArtifacts:
    """A server that takes metrics; files only while `open`."""

    name = "sqlite:///m.db"

    def __init__(self) -> None:
        self.open = False
        self.points: list[MetricPoint] = []
        self.files: list[str] = []
        self.tries: list[str] = []
        self.status = "RUNNING"

    def log_points(self, points: Sequence[MetricPoint]) -> None:
        self.points += [point for point in points if point not in self.points]

    def log_file(self, name: str, data: bytes) -> None:
        self.tries.append(name)
        if not self.open:
            raise RuntimeError("Unable to locate credentials")
        self.files.append(name)

    def log_model(self, step: int) -> None: ...

    def end(self, status: str, ended_ms: int) -> None:
        self.status = status

    def answer(self) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> NoArtifacts:
    monkeypatch.setattr(spool, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(spool, "CLOSING_WAIT_SECONDS", 0.01)
    return NoArtifacts()


NAMES = [f"pictures/{i}.png" for i in range(7)]


def test_files_are_given_up_once_and_the_run_ends(server: NoArtifacts, tmp_path: Path) -> None:
    file = tmp_path / "spool"
    tracker = Tracker(server, "id", file)
    for step, name in enumerate(NAMES):
        tracker.log_steps([{"step": step, "train/loss": 1.0}])
        tracker.log_file(name, b"png")
    tracker.start()
    tracker.end(FINISHED)
    (line,) = tracker.notices()
    assert line.startswith(
        "warning: pictures/0.png is not in MLflow, nor are other files that its artifact"
    )
    assert "Unable to locate credentials" in line
    assert server.status == FINISHED
    assert len(server.points) == len(NAMES)
    assert server.tries.count("pictures/0.png") == 3
    assert {server.tries.count(name) for name in NAMES[1:]} == {1}
    assert not file.exists()  # a rerun finds nothing to deliver


def test_a_store_that_takes_files_again_gets_the_later_ones(
    server: NoArtifacts, tmp_path: Path
) -> None:
    tracker = Tracker(server, "id", tmp_path / "spool")
    tracker.log_file(NAMES[0], b"png")
    tracker.start()
    while len(server.tries) < 3:
        pass
    server.open = True
    tracker.log_file(NAMES[1], b"png")
    tracker.log_file(NAMES[0], b"a new one of that name")
    tracker.end(FINISHED)
    assert server.files == [NAMES[1], NAMES[0]]


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("API request to /x failed with error code 401 != 200", "MLFLOW_TRACKING_USERNAME"),
        ("Permission denied, error code 403", "MLFLOW_TRACKING_TOKEN"),
        ("(sqlite3.OperationalError) database is locked", "use a server for several runs"),
        ("Connection refused", "start the server, or set --place.mlflow-uri"),
    ],
)
def test_the_advice_fits_the_reason(said: str, advice: str) -> None:
    assert advice in advice_for(RuntimeError(said), "http://127.0.0.1:5000")
