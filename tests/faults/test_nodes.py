"""Nodes that are given notice, die and come back under a running stage: real raylets."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster

from storage import weights
from tests.faults.support.injury import TRAINER, Stage

STEPS, SAVE = 2400, 200  # a save every 20 s: one for a notice comes between; a node needs a minute
# With small steps rounding stays rounding: at 1e-4 it grew to 1 % of the loss within 300 of them.
SCIENCE = [
    *("--stage.steps", str(STEPS), "--stage.eval-every-steps", "0"),
    *("--stage.model.depth", "1", "--stage.global-batch", "512", "--stage.optim.peak-lr", "1e-5"),
]
PLACE = [
    *("--place.save-every-steps", str(SAVE), "--place.log-every-steps", "10"),
    *("--place.max-failures", "-1", "--place.workers.min", "1", "--place.workers.max", "2"),
    *("--place.workers.cpus", "1.5", "--place.decode-cpus", "0.5"),
]
NODE_CPUS = 2  # a worker of 1.5 and a reader


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head without CPUs, and two nodes that hold one worker each."""
    one = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            one.add_node(num_cpus=NODE_CPUS)
        one.wait_for_nodes()
        yield one
    finally:
        one.shutdown()


def with_trainer(cluster: Cluster) -> Any:
    """A node that a worker trains on."""
    for node in cluster.worker_nodes:
        children = psutil.Process(raylet(node)).children(recursive=True)
        for child in children:
            with suppress(psutil.Error):
                if TRAINER in " ".join(child.cmdline()):
                    return node
    raise AssertionError("no node has a trainer")


def raylet(node: Any) -> int:
    """Its process id."""
    return int(node.all_processes["raylet"][0].process.pid)


def give_notice(cluster: Cluster, node: Any, *, seconds: int) -> None:
    """Tell Ray that a node is to be taken away, as a cloud's watcher does."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
    arguments = {
        "--address": cluster.address,
        "--node-id": node.node_id,
        "--reason": "DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message": "spot",
        "--deadline-remaining-seconds": str(seconds),
    }
    subprocess.run([*command, *(w for pair in arguments.items() for w in pair)], check=True)


def widths(stage: Stage) -> list[int]:
    """Workers of each group that started, from the log."""
    return [int(n) for n in re.findall(r"x (\d+) workers x", stage.log.read_text())]


def stage_of(run: str, cluster: Cluster, place: list[str], tmp_path: Path) -> Stage:
    head = cluster.head_node
    assert head is not None
    session = head.get_session_dir_path()
    options = [*place, *PLACE, *SCIENCE]
    return Stage.pretraining(run, options, str(cluster.address), tmp_path, session=session)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_stage_outlives_notices_and_nodes(
    cluster: Cluster, place: list[str], tmp_path: Path
) -> None:
    stage = stage_of("moving", cluster, place, tmp_path)
    stage.start()
    stage.wait("a state", lambda: stage.saved() >= SAVE)
    node = with_trainer(cluster)
    due = stage.saved() + SAVE
    give_notice(cluster, node, seconds=60)
    stage.wait("the notice", lambda: "about to be taken away" in stage.log.read_text(), seconds=30)
    stage.wait("a save for it", lambda: stage.saved() > due - SAVE, seconds=30)
    assert stage.saved() < due
    os.kill(raylet(node), signal.SIGKILL)
    cluster.worker_nodes.discard(node)
    began, before = time.monotonic(), stage.saved()
    stage.wait("a state of one worker", lambda: widths(stage)[-1] == 1 and stage.saved() > before)
    print(f"{time.monotonic() - began:.0f} s from the death of a node to a newer state")
    assert stage.ended is None, stage.log.read_text()[-3000:]

    cluster.add_node(num_cpus=NODE_CPUS)
    began = time.monotonic()
    stage.wait("two workers again", lambda: widths(stage)[-1] == 2)
    print(f"{time.monotonic() - began:.0f} s from the coming of a node to two workers")
    stage.finish()
    print(stage.log.read_text()[-3000:])
    assert stage.ended == 0, stage.log.read_text()[-3000:]
    assert widths(stage) == [2, 1, 2]

    unbroken = stage_of("unbroken", cluster, place, tmp_path)
    unbroken.start()
    unbroken.finish()
    assert unbroken.ended == 0, unbroken.log.read_text()[-3000:]
    assert widths(unbroken) == [2]
    expected, whole = weights.read_weights(str(unbroken.folder))
    found, moved = weights.read_weights(str(stage.folder))
    apart = max(float((found[name] - value).abs().max()) for name, value in expected.items())
    losses = [manifest["metrics"]["val/loss"] for manifest in (moved, whole)]
    print(f"weights {apart:.1e} apart, validation losses {losses}")
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def new_head() -> Cluster:
    return Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_whose_head_died_is_submitted_to_the_next_one(
    place: list[str], tmp_path: Path
) -> None:
    more = ["--place.workers.min", "2", "--stage.steps", "400"]
    first = new_head()
    try:
        stage = stage_of("beheaded", first, place, tmp_path)
        stage.command += more
        stage.start()
        stage.wait("a state", lambda: stage.saved() >= SAVE)
        saved = stage.saved()
        assert first.head_node is not None
        first.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
        began = time.monotonic()
        assert stage.job is not None
        code = stage.job.wait(180)
        print(f"the job ended with {code}, {time.monotonic() - began:.0f} s after its head")
        assert code
    finally:
        first.shutdown()
    second = new_head()
    try:
        stage.env["RAY_ADDRESS"] = str(second.address)
        stage.start()
        stage.finish()
        said = stage.log.read_text()
        print(said[-1500:])
        assert stage.ended == 0, said[-3000:]
        assert int(re.findall(r"resumed after step (\d+)", said)[-1]) >= saved

        unbroken = stage_of("unbroken", second, place, tmp_path)
        unbroken.command += more
        unbroken.start()
        unbroken.finish()
        assert unbroken.ended == 0, unbroken.log.read_text()[-3000:]
    finally:
        second.shutdown()
    expected, _ = weights.read_weights(str(unbroken.folder))
    found, _ = weights.read_weights(str(stage.folder))
    assert all(found[name].equal(value) for name, value in expected.items())
