"""Our own figures beside Ray's, for Prometheus: the driver sets gauges, Ray's agent on its node
exports them under `ray_` + name, with the labels `run` and `stage`. cluster/grafana draws them.

The same figures tell when decoding is too slow for the workers, and by how many CPUs.
"""

import contextlib
from collections.abc import Callable, Mapping

import ray
from ray.exceptions import RayError
from ray.util.metrics import Gauge

from cluster.placement import decoding_cpus, more_cpus
from cluster.settings import Place
from pipelines.worker.messages import Evaluated, Message, StepsTrained

GAUGES = {  # a name in the reports -> the gauge, what it is
    "step": ("vit_on_ray_step", "optimizer steps done"),
    "train/loss": ("vit_on_ray_loss", "training loss, mean over the workers"),
    "train/lr": ("vit_on_ray_learning_rate", "learning rate of the last step"),
    "train/gradient_norm": ("vit_on_ray_gradient_norm", "norm of the gradient before clipping"),
    "train/images_per_second": ("vit_on_ray_images_per_second", "images trained on, all workers"),
    "train/step_seconds": ("vit_on_ray_step_seconds", "seconds a step"),
    "train/data_wait_fraction": ("vit_on_ray_data_wait_fraction", "share spent waiting for data"),
    "val/accuracy": ("vit_on_ray_val_accuracy", "accuracy at the last evaluation"),
    "val/loss": ("vit_on_ray_val_loss", "loss at the last evaluation"),
}
MISSING = ("vit_on_ray_decoding_cpus_missing", "more CPUs that would end the waiting for data")
PATIENCE_SECONDS = 20.0
"""How long workers wait for data, in reports in a row, before it is said."""
_TAGS = ("run", "stage")


class Gauges:
    """Looks at what the workers of one stage report."""

    def __init__(
        self,
        run: str,
        stage: str,
        place: Place,
        *,
        workers: int,
        worker_cpus: float,
        note: Callable[[str], None],
    ) -> None:
        self._place, self._workers, self._worker_cpus = place, workers, worker_cpus
        self._note = note
        self._late = 0.0  # seconds in a row in which decoding was too slow
        self._gauges = {name: Gauge(gauge, text, _TAGS) for name, (gauge, text) in GAUGES.items()}
        self._missing = Gauge(*MISSING, _TAGS)
        for gauge in (*self._gauges.values(), self._missing):
            gauge.set_default_tags({"run": run, "stage": stage})

    def export(self, message: Message) -> None:
        """Export the metrics of a message; other messages change nothing."""
        if isinstance(message, StepsTrained):
            record = message.records[-1]
            self._set(record)
            with contextlib.suppress(RayError):  # a cluster that went away is reported elsewhere
                self._compare(record, len(message.records) * record["train/step_seconds"])
        elif isinstance(message, Evaluated):
            self._set(message.metrics)

    def _set(self, figures: Mapping[str, float]) -> None:
        for name, gauge in self._gauges.items():
            if name in figures:
                gauge.set(figures[name])

    def _compare(self, record: Mapping[str, float], seconds: float) -> None:
        """What decoding delivers with what the workers would take; said once."""
        waited, rate = record["train/data_wait_fraction"], record["train/images_per_second"]
        cpus = decoding_cpus(
            ray.nodes(),
            on_gpu_nodes=self._place.decode_on_gpu_nodes,
            workers=self._workers,
            worker_cpus=self._worker_cpus,
            worker_gpus=self._place.workers.gpus_each,
        )
        missing = more_cpus(cpus, wait_fraction=waited)
        self._missing.set(missing)
        before, self._late = self._late, self._late + seconds if missing else 0.0
        if before < PATIENCE_SECONDS <= self._late:
            self._note(slow_decoding(rate=rate, waited=waited, cpus=cpus, missing=missing))


def slow_decoding(*, rate: float, waited: float, cpus: float, missing: int) -> str:
    """The line, with the figures that it follows from."""
    return (
        f"decoding cannot keep up: workers wait {waited:.0%} of the time while {cpus:g} CPUs decode"
        f" {rate:.0f} img/s ({1000 * cpus / rate:.1f} ms of CPU time per image); {missing} more"
        " would"
    )
