"""What a worker measures of its training and reports to the driver.

Every rank calls; what rank 0 says counts.
"""

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import ray.train
import torch
import torch.distributed as dist
from torch import Tensor

from cluster.engine import gradient_norm
from pipelines.worker.guards import (
    ADVICE,
    MOST_SKIPPED,
    TrainedStep,
    explain_gradient,
    explain_nonfinite,
    skipped_in_a_row,
)
from pipelines.worker.job import Job, Stopped
from pipelines.worker.messages import (
    MESSAGE,
    Evaluated,
    Message,
    Quarantined,
    Record,
    Started,
    StepsSkipped,
    StepsTrained,
)
from pipelines.worker.quarantine import Quarantine
from pipelines.worker.survival import Survival
from pipelines.worker.transfer import Wait
from pipelines.worker.utilisation import Utilisation, device_name
from storage.columns import order_of

CARRIED = 10_000
"""Most records of steps that are kept between two saves."""

REPORT_SECONDS = 1.0
"""Least time between two reports: Ray Train fetches one of them at a time, four times a second."""

NOTICE_SECONDS = 5.0
"""Time between two looks for notices, where steps are slow. Google gives notice 30 s ahead."""

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine


def report_stride(log_every_steps: int, seconds_per_step: float) -> int:
    """Steps between two reports: a multiple of the setting, and at least `REPORT_SECONDS`."""
    shortest = log_every_steps * seconds_per_step
    return log_every_steps * max(1, math.ceil(REPORT_SECONDS / shortest))


def look_stride(seconds_per_step: float) -> int:
    """Steps between two looks for notices."""
    return max(1, int(NOTICE_SECONDS / seconds_per_step))


def finite(record: Mapping[str, float]) -> Record:
    """The metrics that are finite: a resume state keeps them as JSON, which has no others."""
    return {name: value for name, value in record.items() if math.isfinite(value)}


class Telemetry:
    """Telemetry of one rank.

    Every rank must call the methods that report, and `check`, together.
    """

    def __init__(
        self, job: Job, survival: Survival, *, rank: int, world_size: int, device: torch.device
    ) -> None:
        self._job, self._survival, self._device = job, survival, device
        self._rank, self._world_size = rank, world_size
        self._utilisation = Utilisation(job.stage, device=device_name(device), workers=world_size)
        self._stride, self._look_stride = job.place.log_every_steps, 1
        self._skipped = 0
        # Bounded: a stage that saves nothing, or seldom, reports forever.
        most = max(CARRIED, 2 * job.place.log_every_steps)
        self._reported: deque[Record] = deque(maxlen=most)
        self._reported_before: deque[Record] = deque(maxlen=most)
        self._first_batch_seconds: float | None = None
        self.first_step_seconds = 0.0
        """Of the group, until it is reported: compiling is in it."""
        self.unreported: list[TrainedStep] = []
        self.reset_clock()

    def reset_clock(self) -> None:
        """Throughput counts training steps alone, not saving or evaluating."""
        self._began = time.perf_counter()
        self._waits: list[Wait] = []  # asked at the report: a GPU runs behind
        self._read = np.zeros(2, dtype=np.int64)  # requests, bytes
        self._pictures: list[str] = []

    def fetched(self, batch: Mapping[str, Tensor], wait: Wait) -> None:
        """A batch came. The first one of a group waits for processes to start: that is told apart
        from throughput.
        """
        if self._first_batch_seconds is None:
            self._first_batch_seconds = wait.host_seconds
            self.reset_clock()
        else:
            self._waits.append(wait)
        self._read += [int(batch[name].sum()) for name in ("requests", "bytes")]

    def drew(self, picture: str) -> None:
        """A picture lies in the attempt's folder."""
        self._pictures.append(picture)

    def start(
        self, step: int, records: Sequence[Record], *, plan: str, notes: tuple[str, ...]
    ) -> None:
        """Report that the group goes on after `step`, with the metrics that its state carries."""
        self.report(Started(step=step, plan=plan, notes=notes, records=records))

    def carry_over(self) -> list[Record]:
        """Metrics reported since the save before the last, for the state that is saved now.

        A report can be lost with the worker that made it. Its steps are not trained again, so a
        state carries their metrics, and the group that resumes from it reports them once more. Only
        the last reports can be lost, so the newest records do.
        """
        records = [*self._reported_before, *self._reported]
        self._reported_before = self._reported.copy()
        self._reported.clear()
        return records

    def report(self, message: Message) -> None:
        """Send a message to the controller, by way of Ray Train."""
        ray.train.report({MESSAGE: message} if self._rank == 0 else {})

    def report_metrics(self, message: Evaluated | Quarantined) -> None:
        """Send metrics that belong to a step."""
        self._reported.append(finite({"step": message.step, **message.metrics}))
        self.report(message)

    def due(self, step: int) -> bool:
        """Whether the metrics are to be reported after so many steps; the same on every rank."""
        return step % self._stride == 0

    def looks(self, step: int) -> bool:
        """Whether to look for notices after so many steps; the same on every rank."""
        return step % self._look_stride == 0

    def report_steps(self, step: int, engine: "DeepSpeedEngine", quarantine: Quarantine) -> None:
        """Send the metrics of every step since the last report.

        Raises:
            Stopped: a loss or gradient is NaN or infinite, or too many samples are damaged.
        """
        self._survival.beat(step, "report")
        losses = self._checked_losses(quarantine)
        seconds, steps = time.perf_counter() - self._began, len(self.unreported)
        own = torch.tensor([*self._read, seconds / steps], dtype=torch.float64)
        sums = own.to(self._device)  # requests, bytes, seconds a step
        dist.all_reduce(sums)
        requests, count, step_seconds = sums.tolist()
        step_seconds /= self._world_size
        self._stride = report_stride(self._job.place.log_every_steps, step_seconds)
        self._look_stride = look_stride(step_seconds)
        records: list[Record] = [
            finite({"step": trained.step, "train/lr": trained.lr, "train/loss": loss})
            for trained, loss in zip(self.unreported, losses, strict=True)
        ]
        records[-1] |= {
            "train/epoch": step / self._job.steps_per_epoch,
            "train/images_per_second": steps * self._job.stage.global_batch / seconds,
            "train/step_seconds": seconds / steps,
            "train/data_wait_fraction": sum(wait.seconds() for wait in self._waits) / seconds,
            "train/read_requests": requests,
            "train/read_mebibytes": count / 2**20,
        }
        records[-1] |= self._utilisation.metrics(records[-1]["train/images_per_second"])
        norm = gradient_norm(engine)
        if norm is not None:
            if not np.isfinite(norm):
                raise Stopped(explain_gradient(step, norm))
            records[-1]["train/gradient_norm"] = norm
        if self._first_batch_seconds:
            records[-1]["train/first_batch_seconds"] = self._first_batch_seconds
            self._first_batch_seconds = 0.0  # reported
        if self.first_step_seconds:
            records[-1]["train/first_step_seconds"] = self.first_step_seconds
            self.first_step_seconds = 0.0
        stalled = self._survival.stalled()
        if stalled:
            records[-1]["train/save_seconds"] = stalled
        self._reported += map(finite, records)
        self.report(StepsTrained(records=records, pictures=tuple(self._pictures)))
        self.unreported.clear()
        self.check(quarantine, step)
        self.reset_clock()

    def _checked_losses(self, quarantine: Quarantine) -> list[float]:
        """The mean loss of each unreported step over the ranks."""
        own = torch.stack([trained.loss for trained in self.unreported])  # [steps]
        losses = own.clone()
        dist.all_reduce(losses)
        finite = torch.isfinite(losses)
        if finite.all():
            self._skipped = 0
        else:
            reason = explain_nonfinite(self.unreported, own, quarantine.spec)
            self._skipped = skipped_in_a_row(self._skipped, finite.tolist())
            if self._job.stage.nonfinite == "stop" or self._skipped >= MOST_SKIPPED:
                raise Stopped(f"{reason}. {ADVICE}")
            self.report(StepsSkipped(steps=int((~finite).sum()), reason=reason))
        return (losses / self._world_size).tolist()

    def check(self, quarantine: Quarantine, step: int) -> None:
        """Name the damaged samples that are new; raise Stopped where they are too many."""
        found = quarantine.agree(self._device)
        if not found:
            return
        lines = quarantine.record(found) if self._rank == 0 else []
        name = f"{quarantine.role}/quarantined"
        metrics = {name: float(len(quarantine))}
        self.report_metrics(Quarantined(step=step, metrics=metrics, lines=tuple(lines)))
        reason = quarantine.too_many(order_of(quarantine.spec).samples)
        if reason:
            raise Stopped(reason)
