"""What workers report reaches Prometheus; slow decoding is named with the CPUs that it lacks."""

import re
import time
from typing import Any

import pytest
import ray

from cluster.settings import Place, Workers
from pipelines.training.gauges import Gauges, slow_decoding
from pipelines.worker.messages import Evaluated, Preempted, StepsTrained
from tests.cluster.support.prometheus import scraped


def report(step: int, waited: float) -> StepsTrained:
    """Of two steps in ten seconds."""
    record = {
        "step": step,
        "train/loss": 2.5,
        "train/step_seconds": 5.0,
        "train/images_per_second": 450.0,
        "train/data_wait_fraction": waited,
    }
    return StepsTrained(records=[{"step": step - 1}, record])


def watch(notes: list[str], **place: Any) -> Gauges:
    settings = Place(workers=Workers(gpus=0), **place)
    return Gauges("tried", "pretrain", settings, workers=2, worker_cpus=0.5, note=notes.append)


def exported() -> str:
    """What the nodes of this Ray export now."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    ports = [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in alive]
    return "".join(map(scraped, ports))


def test_reports_are_exported_with_run_and_stage(ray_session: str) -> None:
    gauges = watch([])
    gauges.export(report(120, waited=0.5))
    gauges.export(Evaluated(step=120, metrics={"val/accuracy": 0.75, "val/loss": 1.0}))
    gauges.export(Preempted(ranks=(0,)))
    wanted = {
        "step": 120.0,
        "loss": 2.5,
        "images_per_second": 450.0,
        "val_accuracy": 0.75,
        "decoding_cpus_missing": 3.0,  # as many again: 4, of which workers hold 1
    }
    deadline = time.monotonic() + 60
    while True:
        text = exported()
        found = {
            name: float(value)
            for name, tags, value in re.findall(r"^ray_vit_on_ray_(\w+){(.*)} (\S+)$", text, re.M)
            if 'run="tried"' in tags and 'stage="pretrain"' in tags
        }
        if wanted.items() <= found.items():
            return
        assert time.monotonic() < deadline, found
        time.sleep(1)


def test_slow_decoding_is_said_once_and_not_at_once(ray_session: str) -> None:
    notes: list[str] = []
    gauges = watch(notes)
    for waited in (0.5, 0.01, 0.5):
        gauges.export(report(10, waited))
    assert notes == []
    for waited in (0.5, 0.5, 0.5):
        gauges.export(report(10, waited))
    (line,) = notes
    assert "wait 50% of the time while 3 CPUs decode 450 img/s" in line
    assert line.endswith("; 3 more would")


def test_the_line_gives_the_figures_it_follows_from() -> None:
    assert slow_decoding(rate=450, waited=0.25, cpus=12, missing=4) == (
        "decoding cannot keep up: workers wait 25% of the time while 12 CPUs decode 450 img/s"
        " (26.7 ms of CPU time per image); 4 more would"
    )


@pytest.mark.parametrize("on_gpu_nodes", [True, None])
def test_without_gpus_all_nodes_decode(ray_session: str, on_gpu_nodes: bool | None) -> None:
    notes: list[str] = []
    gauges = watch(notes, decode_on_gpu_nodes=on_gpu_nodes)
    for _ in range(2):
        gauges.export(report(10, 0.5))
    assert "3 CPUs" in notes[0]
