"""The training loop, the same on every worker, read top to bottom.

fetch -> mix -> forward, backward, step -> report -> evaluate -> save; at the end, commit.
Every rank takes every branch: gathering, evaluating and reporting are collective.
"""

import time
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import ray.train
from torch import Tensor

from cluster import resume_state
from cluster.engine import prepare_worker
from cluster.precision import element_type, set_arithmetic
from cluster.settings import Place
from pipelines.recipes.batches import batch_of
from pipelines.recipes.objectives import stage_objective
from pipelines.recipes.stage import Stage
from pipelines.worker.best import Best
from pipelines.worker.commit import arithmetic_of, commit, committed_before
from pipelines.worker.feed import TRAIN, VAL
from pipelines.worker.guards import explain_metrics
from pipelines.worker.job import Job, Stopped
from pipelines.worker.memory_guard import MemoryGuard
from pipelines.worker.messages import Evaluated, Preempted, StageStopped
from pipelines.worker.micro_batch import with_number
from pipelines.worker.out_of_memory import FIRST_STEPS
from pipelines.worker.pictures import ANSWERS_PICTURE, BATCH_PICTURE, draw_answers, draw_batch
from pipelines.worker.quarantine import quarantines
from pipelines.worker.start import start
from pipelines.worker.step import train_step
from pipelines.worker.survival import Survival
from pipelines.worker.telemetry import Telemetry
from pipelines.worker.transfer import DeviceBatches
from pipelines.worker.validation import evaluate

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine


def train(job: Job) -> None:
    """Run one worker's part of a stage attempt; the whole group commits the weights."""
    worker = Worker(job)
    try:
        if not worker.committed():
            _train(worker, job.stage, job.place)
        worker.survival.end()
    except Stopped as stop:
        worker.survival.end()  # what was trained before it is kept
        worker.telemetry.report(StageStopped(reason=str(stop), mistake=stop.mistake))


def _train(worker: "Worker", stage: Stage, place: Place) -> None:
    first_step, saves_every = worker.start(), place.save_period(stage.steps)
    for step in range(first_step, stage.steps):
        batch = worker.fetch(step)
        worker.step(batch, step)
        done = step + 1
        last = done == stage.steps
        reported = last or worker.telemetry.due(done)
        if reported:
            worker.report(done)
        if not last and stage.eval_every_steps and done % stage.eval_every_steps == 0:
            metrics = worker.evaluate(done)  # before the save, which keeps what was reported
            if worker.best.ends:
                worker.commit(done, metrics)
                return
        due = saves_every and done % saves_every == 0
        looks = reported or worker.telemetry.looks(done)
        if not last and (due or (looks and worker.preempted())):
            worker.save(done)
    worker.commit(stage.steps, worker.evaluate(stage.steps, last=True))


class Worker:
    """What one rank holds during a stage attempt."""

    def __init__(self, job: Job) -> None:
        context = ray.train.get_context()
        self.job = job
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = prepare_worker(
            rank=self.rank,
            local_rank=context.get_local_rank(),
            world_size=self.world_size,
            gpu=job.place.workers.gpus_each > 0,
            verbose=job.place.verbose,
        )
        set_arithmetic(job.stage.precision, deterministic=job.place.deterministic)
        self.dtype = element_type(job.stage.precision)
        self.place = with_number(
            job.stage,
            job.place,
            job.attempt_uri,
            rank=self.rank,
            workers=self.world_size,
            device=self.device,
        )
        self.plan = batch_of(job.stage, self.place, self.world_size)
        self.memory = MemoryGuard(job, self.place, self.plan, rank=self.rank, device=self.device)
        self.objective = stage_objective(job.stage)
        self.engine: DeepSpeedEngine
        self.train_batches: DeviceBatches
        self.best: Best
        self.first_step = 0
        self.survival = Survival(
            job, rank=self.rank, world_size=self.world_size, device=self.device
        )
        self.telemetry = Telemetry(
            job, self.survival, rank=self.rank, world_size=self.world_size, device=self.device
        )
        self.train_quarantine, self.val_quarantine = quarantines(job)

    def committed(self) -> bool:
        """Whether the weights are there already (collective), so that nothing is left to train."""
        commit_before = committed_before(self.job, rank=self.rank, device=self.device)
        if commit_before is not None:
            self.telemetry.report(commit_before)
        return commit_before is not None

    def start(self) -> int:
        """Build the engine with its first weights, open the stream; return the first step."""
        with self.memory.model():
            begin = start(
                self.job,
                self.plan,
                self.survival,
                partial(self.batches, TRAIN),
                rank=self.rank,
                device=self.device,
                dtype=self.dtype,
            )
        self.engine, self.first_step, self.best = begin.engine, begin.step, begin.best
        self.train_batches = DeviceBatches(begin.batches, self.device)
        self.telemetry.start(begin.step, begin.records, plan=str(self.plan), notes=begin.notes)
        self.telemetry.reset_clock()
        return begin.step

    def batches(self, name: Literal["train", "val"]) -> Iterator[dict[str, np.ndarray]]:
        """This rank's batches of a stream, from its beginning."""
        shard: Any = ray.train.get_dataset_shard(name)  # Ray's type allows for no dataset
        rows = self.plan.local_batch
        return iter(shard.iter_batches(batch_size=rows, batch_format="numpy", prefetch_batches=2))

    def fetch(self, step: int) -> dict[str, Tensor]:
        """The next batch, which must be this step's; time spent waiting is measured."""
        self.survival.beat(step, "fetch")
        batch, wait = next(self.train_batches)
        assert (batch["step"] == step).all(), f"step {step} was fed {set(batch['step'].tolist())}"
        self.telemetry.fetched(batch, wait)
        self.train_quarantine.add(batch["quarantined"].numpy())
        return batch

    def step(self, batch: dict[str, Tensor], step: int) -> None:
        """One optimizer step over the rank's share of the global batch."""
        self.survival.beat(step, "train")
        first, began = step < self.first_step + FIRST_STEPS, time.perf_counter()
        with self.memory.step(first=first):
            trained = train_step(
                batch,
                step,
                stage=self.job.stage,
                objective=self.objective,
                engine=self.engine,
                plan=self.plan,
                device=self.device,
                dtype=self.dtype,
                show=self.draw if step == 0 and self.rank == 0 else None,
            )
        if step == self.first_step:
            self.telemetry.first_step_seconds = time.perf_counter() - began
        self.telemetry.unreported.append(trained)

    def draw(self, images: Tensor) -> None:
        """Keep a picture of the first images [m, 3, H, W], and tell it."""
        draw_batch(self.job.attempt_uri, images)
        self.telemetry.drew(BATCH_PICTURE)

    def report(self, step: int) -> None:
        """Tell the metrics of every step since the last report, where there are any."""
        if self.telemetry.unreported:
            self.telemetry.report_steps(step, self.engine, self.train_quarantine)

    def save(self, step: int) -> None:
        """Begin to write the resume state; it does not know how many workers wrote it."""
        self.report(step)  # looks at the losses: what is no number is not saved
        records = self.telemetry.carry_over()
        pieces = chain(resume_state.own_pieces(self.engine), self.best.pieces(self.engine))
        self.survival.save(step, pieces, records, self.best.record())
        self.telemetry.reset_clock()

    def preempted(self) -> bool:
        """Whether a node was given notice since the last look (collective): save while it lives."""
        ranks = self.survival.notice()
        if ranks is not None:
            self.telemetry.report(Preempted(ranks=tuple(ranks)))
        return ranks is not None

    def evaluate(self, step: int, *, last: bool = False) -> dict[str, float]:
        """Evaluate on the validation split (collective).

        The average is evaluated where its metrics are asked for: at the last step, and at every
        evaluation that may be it.
        """
        self.report(step)  # before the clock starts anew: steps are timed without evaluating
        stage = self.job.stage
        drawn = self.rank == 0 and self.objective.hides
        average = stage.optim.ema_decay is not None and (last or stage.chooses)
        with self.memory.evaluation(average=average):
            metrics = evaluate(
                stage,
                self.objective,
                self.engine,
                self.validation_batches,
                device=self.device,
                dtype=self.dtype,
                micro_batch=self.memory.at_once,
                average=average,
                show=partial(draw_answers, self.job.attempt_uri) if drawn else None,
            )
        self.best.add(self.engine, step, metrics)
        pictures = (ANSWERS_PICTURE,) if drawn else ()
        self.telemetry.report_metrics(Evaluated(step=step, metrics=metrics, pictures=pictures))
        self.telemetry.check(self.val_quarantine, step)
        self.telemetry.reset_clock()
        return metrics

    def validation_batches(self) -> Iterator[dict[str, Tensor]]:
        """This rank's batches of the validation split; damaged samples are noted."""
        for batch, _ in DeviceBatches(self.batches(VAL), self.device):
            self.survival.beat(self.job.stage.steps, "evaluate")
            self.val_quarantine.add(batch["quarantined"].numpy())
            yield batch

    def commit(self, step: int, metrics: dict[str, float]) -> None:
        """Commit the last weights, or the best ones, for the next stage (collective).

        Args:
            step: steps that were trained.
            metrics: of the last evaluation.

        Raises:
            Stopped: a metric of these weights is not finite.
        """
        self.survival.beat(step, "commit")
        self.survival.settle()
        chosen = self.best.choose(self.engine, step, metrics)
        reason = explain_metrics(chosen.step, chosen.metrics)
        if reason:
            raise Stopped(reason)
        arithmetic = arithmetic_of(self.place, self.plan, self.device)
        self.telemetry.report(
            commit(self.job, self.engine, chosen, rank=self.rank, arithmetic=arithmetic)
        )
