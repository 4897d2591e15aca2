"""Training goes on whatever MLflow does; its metrics arrive once, in order, later."""

import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pipelines.tracking import spool
from pipelines.tracking import tracker as tracker_module
from pipelines.tracking.attempt_run import open_tracker, settle, spool_path
from pipelines.tracking.client import open_client
from pipelines.tracking.tracker import FINISHED, KILLED, Tracker
from tests.pipelines.conftest import TINY, Said
from tests.pipelines.support.mlflow_gate import Gate, MlflowServer, gate_before, running_mlflow

pytestmark = [
    pytest.mark.timeout(900),  # servers that start on a busy machine
    pytest.mark.waits,
]

FAULTS = ["refuse", "500", "hang", "took"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with running_mlflow(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


@pytest.fixture
def gate(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """The way to the server, for a client that is quick to give up."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(spool, "LONGEST_WAIT_SECONDS", 1.0)
    monkeypatch.setattr(tracker_module, "CLOSE_SECONDS", 3.0)
    with gate_before(server) as opened:
        yield opened


@contextmanager
def patience() -> Iterator[None]:
    """For calls that are not under test, on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
        yield


def open_one(gate: Gate, attempt: str) -> Tracker:
    with patience():
        return open_tracker(
            open_client(gate.uri),
            experiment="outages",
            run="r",
            stage="pretrain",
            attempt=attempt,
            tags={},
            params={"steps": 60},
        )


def steps(first: int, last: int) -> list[dict[str, float]]:
    return [{"step": step, "train/loss": 1.0 / step} for step in range(first, last + 1)]


def history(gate: Gate, run_id: str, name: str = "train/loss") -> list[tuple[int, float]]:
    with patience():
        found = open_client(gate.uri).get_metric_history(run_id, name)
    return [(metric.step, metric.value) for metric in found]


def status(gate: Gate, run_id: str) -> str:
    with patience():
        return open_client(gate.uri).get_run(run_id).info.status


def wait_until(fact: Callable[[], bool], seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.02)


def waiting(run: Tracker) -> bool:
    path = spool_path(run.run_id)
    return path.exists() and path.stat().st_size > 0


@pytest.mark.parametrize("fault", FAULTS)
def test_metrics_wait_on_disk_and_arrive_once(gate: Gate, fault: str) -> None:
    run = open_one(gate, f"runs/{fault}")
    run.log_start(0)
    run.log_steps(steps(1, 20))
    wait_until(lambda: not waiting(run))
    gate.break_with(fault)
    seconds: list[float] = []
    for first in range(21, 61, 2):
        began = time.perf_counter()
        run.log_steps(steps(first, first + 1))
        run.log_file("picture.png", b"png")
        seconds.append(time.perf_counter() - began)
    assert statistics.median(seconds) < 0.5  # a request to a server that hangs takes 5 s
    said: list[str] = []
    wait_until(lambda: bool(said.extend(run.notices()) or said))
    time.sleep(2.5)  # more tries, and no more lines
    assert waiting(run)
    assert [*said, *run.notices()] == said
    (line,) = said
    assert f"MLflow at {gate.uri} takes no metrics" in line
    assert str(spool_path(run.run_id)) in line
    gate.heal()
    wait_until(lambda: not waiting(run))
    wait_until(lambda: run.notices() == ["MLflow has all metrics"])
    run.end(FINISHED)
    assert history(gate, run.run_id) == [(step, 1.0 / step) for step in range(1, 61)]
    assert status(gate, run.run_id) == FINISHED
    wait_until(lambda: not spool_path(run.run_id).exists())


@pytest.mark.parametrize("fault", FAULTS)
def test_the_end_is_bounded_and_the_next_call_delivers(gate: Gate, fault: str) -> None:
    run = open_one(gate, f"runs/end-{fault}")
    run.log_steps(steps(1, 10))
    wait_until(lambda: not waiting(run))
    gate.break_with(fault)
    run.log_steps(steps(11, 30))
    began = time.monotonic()
    run.end(FINISHED)
    assert time.monotonic() - began < 3.0 + 10.0  # CLOSE_SECONDS, on a busy machine
    lines = run.notices()
    kept = [line for line in lines if "2 records for MLflow are kept in" in line]
    assert kept == [lines[-1]]
    assert "run the same command again to deliver them" in lines[-1]
    gate.heal()
    code = (
        "import sys; from pipelines.tracking.attempt_run import settle\n"
        "from pipelines.tracking.client import open_client\n"
        "print(*settle(open_client(sys.argv[1]), {'mlflow_run_id': sys.argv[2]}), sep='\\n')"
    )
    command = [sys.executable, "-c", code, gate.uri, run.run_id]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.stdout.splitlines() == [
        "MLflow has all metrics, including 2 records of an earlier process"
    ]
    assert history(gate, run.run_id) == [(step, 1.0 / step) for step in range(1, 31)]
    assert status(gate, run.run_id) == FINISHED
    assert settle(open_client(gate.uri), {"mlflow_run_id": run.run_id}) == []


def test_the_run_of_a_killed_driver_goes_on(gate: Gate) -> None:
    code = (
        "import os, sys, time; from tests.pipelines.tracking.test_outages import *\n"
        "gate = Gate(0); gate.port = int(sys.argv[1])\n"
        "run = open_one(gate, 'runs/killed'); run.log_start(0); run.log_steps(steps(1, 10))\n"
        "while waiting(run): time.sleep(0.05)\n"
        "print('delivered', flush=True); sys.stdin.readline()\n"
        "run.log_steps(steps(11, 30)); run.end('KILLED') if sys.argv[2] == 'end' else None\n"
        "os.kill(os.getpid(), 9)"
    )
    for end in ("end", "die"):
        driver = subprocess.Popen(
            [sys.executable, "-c", code, str(gate.port), end],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert driver.stdin
        assert driver.stdout
        assert driver.stdout.readline() == "delivered\n"
        gate.break_with("500")
        driver.stdin.write("\n")
        driver.stdin.close()
        assert driver.wait(60) == -signal.SIGKILL
        driver.stdout.close()
        gate.heal()
    run = open_one(gate, "runs/killed")
    run.log_start(20)
    run.log_steps(steps(21, 40))
    wait_until(lambda: not waiting(run))
    assert status(gate, run.run_id) == "RUNNING"  # the word of the driver before is outdated
    run.end(FINISHED)
    assert history(gate, run.run_id) == [(step, 1.0 / step) for step in range(1, 41)]
    assert history(gate, run.run_id, "train/restarts")[-1] == (30, 2.0)
    assert history(gate, run.run_id, "train/lost_steps")[-1] == (30, 40.0)
    assert status(gate, run.run_id) == FINISHED


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_gets_everything(
    gate: Gate, server: MlflowServer
) -> None:
    run = open_one(gate, "runs/restart")
    run.log_steps(steps(1, 1000))
    server.kill()
    run.log_steps(steps(1001, 5000))
    server.start()
    wait_until(lambda: not waiting(run), 200)
    run.end(KILLED)
    assert [step for step, _ in history(gate, run.run_id)] == list(range(1, 5001))
    assert status(gate, run.run_id) == KILLED


@pytest.mark.slow
def test_a_stage_is_trained_while_mlflow_hangs(
    gate: Gate, command: Callable[..., Said], place: list[str], ray_session: str
) -> None:
    hang_from_the_first_metric(gate)
    arguments = [*place, "--place.mlflow-uri", gate.uri, "--place.log-every-steps", "1"]
    tiny = [a.replace("--pretrain.", "--stage.") for a in TINY[: len(TINY) // 3]]
    trained = command("pretrain", *tiny, *arguments)
    assert trained.code == 0, trained.err
    assert trained.out.count("takes no metrics") == 1
    assert "are kept in" in trained.out
    gate.heal()
    again = command("pretrain", *tiny, *arguments)
    assert again.code == 0, again.err
    assert "committed already" in again.out
    assert "MLflow has all metrics" in again.out
    (experiment,) = open_client(gate.uri).search_experiments(filter_string="name = 'digits'")
    (run,) = open_client(gate.uri).search_runs(
        [experiment.experiment_id], filter_string="tags.`vit.kind` = 'stage'"
    )
    assert run.info.status == FINISHED
    assert [step for step, _ in history(gate, run.info.run_id)] == list(range(1, 7))
    assert history(gate, run.info.run_id, "train/restarts") == [(0, 0.0)]
    assert "config.yaml" in {
        each.path for each in open_client(gate.uri).list_artifacts(run.info.run_id)
    }


def hang_from_the_first_metric(gate: Gate) -> None:
    began: list[bool] = []

    def fault(path: str, body: bytes) -> str:
        if path.endswith("/log-batch") and b'"metrics"' in body:
            began.append(True)
        return "hang" if began else "ok"

    gate.fault = fault
