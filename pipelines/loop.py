"""The training loop, the same on every worker, read top to bottom.

fetch -> augment -> forward, backward, step -> report -> save -> evaluate; at the end, commit.
Every rank takes every branch: gathering, evaluating and reporting are collective.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import ray.train
import torch
import torch.distributed as dist
from torch import Tensor

from cluster import resume_state
from cluster.batching import BatchPlan, plan_batch
from cluster.engine import build_engine, gradient_norm, prepare_worker
from cluster.settings import Place
from cluster.zero import zero_config
from pipelines.evaluators import classification
from pipelines.feed import TRAIN, VAL, Feed
from pipelines.guards import TrainedStep, explain_nonfinite
from pipelines.pictures import image_grid
from pipelines.quarantine import Quarantine
from pipelines.stage import Stage
from pipelines.starting import start_weights
from pipelines.states import damaged_states, drop_states, newest_state, save_state
from pipelines.utilisation import Utilisation, device_name
from storage import weights
from storage.objects import open_store
from storage.stream import order_of
from vit import (
    augment_batch,
    build_model,
    build_optimizer,
    loss_fn,
    lr_at,
    param_groups,
    set_lr,
)

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine

BATCH_PICTURE = "pictures/augmented-batch.png"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage attempt, as plain values: all that a worker is told."""

    feed: Feed
    """The stage, and what it is fed."""
    place: Place
    start_uri: str | None
    """Weights to start from: a stage's, or a public checkpoint."""
    steps_per_epoch: float
    manifest: dict[str, Any]
    """Lineage for the manifest; the worker adds step, metrics and what is known at the end."""

    @property
    def stage(self) -> Stage:
        """What is trained."""
        return self.feed.stage

    @property
    def attempt_uri(self) -> str:
        """Where weights and resume states go."""
        return self.feed.attempt_uri


class Stopped(Exception):
    """Every rank found the same reason not to go on, which a restart would not mend."""


def train(job: Job) -> None:
    """Run one worker's part of a stage attempt; the whole group commits the weights."""
    worker = Worker(job)
    try:
        _train(worker, job.stage, job.place)
    except Stopped as reason:
        worker.tell({"kind": "stopped", "reason": str(reason)})


def _train(worker: "Worker", stage: Stage, place: Place) -> None:
    first_step = worker.start()
    if first_step < stage.steps:
        batches = worker.batches(TRAIN)
        for step in range(first_step, stage.steps):
            batch = worker.fetch(batches, step)
            worker.step(batch, step)
            done = step + 1
            last = done == stage.steps
            if last or done % place.log_every_steps == 0:
                worker.report(done)
            if not last and place.save_every_steps and done % place.save_every_steps == 0:
                worker.save(done)
            if not last and stage.eval_every_steps and done % stage.eval_every_steps == 0:
                worker.evaluate(done)
    worker.commit(worker.evaluate(stage.steps))


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
            verbose=job.place.verbose,
        )
        self.plan: BatchPlan = plan_batch(
            job.stage.global_batch,
            workers=self.world_size,
            max_micro_batch=job.place.max_micro_batch,
        )
        self.utilisation = Utilisation(
            job.stage, device=device_name(self.device), workers=self.world_size
        )
        self.engine: DeepSpeedEngine
        self.unreported: list[TrainedStep] = []
        digest = job.manifest["dataset"]["digest"]
        self.train_quarantine, self.val_quarantine = (
            Quarantine(spec, digest, attempt_uri=job.attempt_uri, limit=job.place.max_bad_fraction)
            for spec in (job.feed.train_spec(), job.feed.val_spec())
        )
        self.reset_clock()

    def start(self) -> int:
        """Build the engine with its first weights; return the step to go on from."""
        stage = self.job.stage
        state = newest_state(self.job.attempt_uri)
        model = build_model(stage.model, seed=stage.seed)
        saved: dict[str, Tensor] = {}
        notes: tuple[str, ...] = ("fresh weights",)
        if state:
            saved, _ = weights.read_weights(state.uri)
            model.load_state_dict(resume_state.module_weights(saved))
            notes = (f"resumed after step {state.step}",)
            damaged = damaged_states(self.job.attempt_uri)
            notes += tuple(
                f"the state of step {at} is damaged: {why}" for at, why in damaged.items()
            )
        elif self.job.start_uri:
            found, notes = start_weights(
                self.job.start_uri, stage.model, image_size=stage.init_image_size
            )
            model.load_state_dict(found)
        optimizer = build_optimizer(param_groups(model, stage.optim), stage.optim)
        config = zero_config(
            self.job.place.zero,
            self.plan,
            precision=stage.precision,
            clip_norm=stage.optim.clip_norm,
        )
        average = stage.optim.ema_decay is not None
        self.engine = build_engine(model.to(self.device), optimizer, config, average=average)
        if state:
            resume_state.restore_optimizer(self.engine, saved, step=state.step)
        step = state.step if state else 0
        self.tell({"kind": "start", "step": step, "plan": str(self.plan), "notes": notes})
        return step

    def batches(self, name: Literal["train", "val"]) -> Iterator[dict[str, np.ndarray]]:
        """This rank's batches of a stream, from its beginning."""
        shard: Any = ray.train.get_dataset_shard(name)  # Ray's type allows for no dataset
        rows = self.plan.local_batch
        return iter(shard.iter_batches(batch_size=rows, batch_format="numpy", prefetch_batches=2))

    def fetch(self, batches: Iterator[dict[str, np.ndarray]], step: int) -> dict[str, Tensor]:
        """The next batch, which must be this step's; time spent waiting is measured."""
        began = time.perf_counter()
        batch = next(batches)
        assert (batch["step"] == step).all(), f"step {step} was fed {set(batch['step'].tolist())}"
        self.waited += time.perf_counter() - began
        self.train_quarantine.add(batch["quarantined"])
        self.read += [int(batch["requests"].sum()), int(batch["bytes"].sum())]
        return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in batch.items()}

    def step(self, batch: dict[str, Tensor], step: int) -> None:
        """One optimizer step over the rank's share of the global batch."""
        stage = self.job.stage
        # Dropout: the same after a resume, different on every rank and step.
        torch.manual_seed(hash((stage.seed, step, self.rank)) % 2**63)
        learning_rate = lr_at(step, stage.steps, stage.optim)
        set_lr(resume_state.inner_optimizer(self.engine).param_groups, learning_rate)
        total = torch.zeros((), device=self.device)
        micro = self.plan.micro
        for part in range(self.plan.accumulation):
            rows = {
                name: column[part * micro : (part + 1) * micro] for name, column in batch.items()
            }
            images, targets = augment_batch(
                rows["image"].to(self.device),
                rows["label"].to(self.device),
                sample_index=rows["index"],
                epoch=rows["epoch"],
                seed=stage.seed,
                config=stage.augment,
                num_classes=stage.model.num_classes,
            )  # [m, 3, H, W], [m] or [m, classes]
            if step == 0 and part == 0 and self.rank == 0:
                open_store(self.job.attempt_uri).write(BATCH_PICTURE, image_grid(images))
                self.pictures.append(BATCH_PICTURE)
            logits = self.forward(images).float()  # [m, classes]
            loss = loss_fn(stage.loss, logits, targets, label_smoothing=stage.label_smoothing)  # []
            self.engine.backward(loss)
            self.engine.step()  # takes effect after the last micro-batch
            total += loss.detach() / self.plan.accumulation
        if stage.optim.ema_decay is not None:
            resume_state.update_average(self.engine, stage.optim.ema_decay)
        # The loss stays on the device until it is reported: asking for it would wait for the GPU.
        self.unreported.append(TrainedStep(step + 1, learning_rate, total, batch["index"]))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [b, classes] of images [b, 3, H, W]."""
        if self.job.stage.precision == "bfloat16":
            images = images.to(torch.bfloat16)
        return self.engine(images)

    def report(self, step: int) -> None:
        """Tell the controller the metrics of every step since the last report."""
        own = torch.stack([trained.loss for trained in self.unreported])  # [steps]
        losses = own.clone()
        dist.all_reduce(losses)
        if not torch.isfinite(losses).all():
            raise Stopped(explain_nonfinite(self.unreported, own, self.train_quarantine.spec))
        read = torch.from_numpy(self.read).to(self.device)  # [2]
        dist.all_reduce(read)
        requests, count = read.tolist()
        seconds = time.perf_counter() - self.began
        steps = len(self.unreported)
        records = [
            {"step": trained.step, "train/loss": loss / self.world_size, "train/lr": trained.lr}
            for trained, loss in zip(self.unreported, losses.tolist(), strict=True)
        ]
        records[-1] |= {
            "train/epoch": step / self.job.steps_per_epoch,
            "train/images_per_second": steps * self.job.stage.global_batch / seconds,
            "train/step_seconds": seconds / steps,
            "train/data_wait_fraction": self.waited / seconds,
            "train/read_requests": requests,
            "train/read_mebibytes": count / 2**20,
        }
        records[-1] |= self.utilisation.metrics(records[-1]["train/images_per_second"])
        norm = gradient_norm(self.engine)
        if np.isfinite(norm):
            records[-1]["train/gradient_norm"] = norm
        self.tell({"kind": "steps", "records": records, "pictures": self.pictures})
        self.unreported.clear()
        self.check(self.train_quarantine, step)
        self.reset_clock()

    def check(self, quarantine: Quarantine, step: int) -> None:
        """Name the damaged samples that are new; raise Stopped where they are too many."""
        found = quarantine.agree(self.device)
        if not found:
            return
        lines = quarantine.record(found) if self.rank == 0 else []
        name = f"{quarantine.spec.split}/quarantined"
        metrics = {name: len(quarantine)}
        self.tell({"kind": "quarantined", "step": step, "metrics": metrics, "lines": lines})
        reason = quarantine.too_many(order_of(quarantine.spec).samples)
        if reason:
            raise Stopped(reason)

    def save(self, step: int) -> None:
        """Write the resume state; it does not know how many workers wrote it."""
        if self.unreported:
            self.report(step)  # looks at the losses: what is no number is not saved
        tensors = resume_state.gather_state(self.engine)
        if self.rank == 0:
            keep = self.job.place.keep_states
            save_state(self.job.attempt_uri, tensors, step=step, keep=keep)
        dist.barrier()
        self.reset_clock()

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Evaluate on the validation split; every rank returns the same metrics."""
        began = time.perf_counter()
        self.engine.eval()
        metrics = dict(
            classification(
                self.forward,
                self.watched(self.batches(VAL)),
                device=self.device,
                micro_batch=self.job.place.max_micro_batch,
            )
        )
        self.engine.train()
        metrics["val/seconds"] = time.perf_counter() - began
        self.tell({"kind": "metrics", "step": step, "metrics": metrics})
        self.check(self.val_quarantine, step)
        self.reset_clock()
        return metrics

    def watched(self, batches: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        """The same batches, with an eye on damaged samples."""
        for batch in batches:
            self.val_quarantine.add(batch["quarantined"])
            yield batch

    def commit(self, metrics: dict[str, float]) -> None:
        """Hand the weights to whoever comes next: bytes first, manifest last."""
        stage = self.job.stage
        tensors = resume_state.gather_weights(self.engine)
        average: dict[str, Tensor] | None = None
        if stage.optim.ema_decay is not None:
            average = resume_state.gather_weights(self.engine, resume_state.AVERAGE)
        if self.rank == 0:
            manifest = self.job.manifest | {"step": stage.steps, "metrics": metrics}
            weights.commit(self.job.attempt_uri, tensors, manifest, ema=average)
            drop_states(self.job.attempt_uri)
        dist.barrier()
        self.tell({"kind": "committed", "step": stage.steps})

    def tell(self, message: dict[str, Any]) -> None:
        """Report to the controller: every rank calls, rank 0's words count."""
        ray.train.report(message if self.rank == 0 else {})

    def reset_clock(self) -> None:
        """Throughput counts training steps alone, not saving or evaluating."""
        self.began = time.perf_counter()
        self.waited = 0.0
        self.read = np.zeros(2, dtype=np.int64)  # requests, bytes
        self.pictures: list[str] = []
