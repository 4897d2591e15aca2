"""The training loop, the same on every worker, read top to bottom.

fetch -> augment -> forward, backward, step -> report -> evaluate -> save; at the end, commit.
Every rank takes every branch: gathering, evaluating and reporting are collective.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import ray.train
import torch
import torch.distributed as dist
from torch import Tensor

from cluster import resume_state
from cluster.engine import build_engine, prepare_worker
from cluster.precision import element_type, set_arithmetic
from cluster.settings import Place
from cluster.zero import zero_config
from pipelines.inspection.image_grid import image_grid
from pipelines.lineage.manifest import read_manifest
from pipelines.lineage.resume_states import damaged_states
from pipelines.lineage.start_weights import start_weights
from pipelines.recipes.batches import batch_of
from pipelines.recipes.stage import Stage
from pipelines.recipes.streams import train_spec, val_spec
from pipelines.worker.collectives import _of_first_rank
from pipelines.worker.feed import TRAIN, VAL, begun
from pipelines.worker.guards import TrainedStep, explain_metrics, usable_loss
from pipelines.worker.job import Job, Stopped
from pipelines.worker.messages import Committed, Evaluated, Preempted, Record, StageStopped
from pipelines.worker.out_of_memory import FIRST_STEPS, bad_place
from pipelines.worker.quarantine import Quarantine
from pipelines.worker.survival import Survival
from pipelines.worker.telemetry import Telemetry
from pipelines.worker.validation import classification
from storage import weights
from storage.errors import WeightsExist
from storage.objects import open_store
from storage.pieces import Pieces
from vit import (
    augment_batch,
    build_model,
    build_optimizer,
    drops,
    loss_fn,
    lr_at,
    param_groups,
    sample_keys,
    set_lr,
)

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine

LEAF_CLASSES = ("vit.blocks.Block",)
BATCH_PICTURE = "pictures/augmented-batch.png"


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
    first_step, batches = worker.start()
    for step in range(first_step, stage.steps):
        batch = worker.fetch(batches, step)
        worker.step(batch, step)
        done = step + 1
        last = done == stage.steps
        reported = last or done % place.log_every_steps == 0
        if reported:
            worker.report(done)
        if not last and stage.eval_every_steps and done % stage.eval_every_steps == 0:
            worker.evaluate(done)  # before the save, which keeps what was reported
        due = place.save_every_steps and done % place.save_every_steps == 0
        if not last and (due or (reported and worker.preempted())):
            worker.save(done)
    worker.commit(worker.evaluate(stage.steps, last=True))


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
        self.plan = batch_of(job.stage, job.place, self.world_size)
        self.engine: DeepSpeedEngine
        self.first_step = 0
        self.survival = Survival(
            job, rank=self.rank, world_size=self.world_size, device=self.device
        )
        self.telemetry = Telemetry(
            job, self.survival, rank=self.rank, world_size=self.world_size, device=self.device
        )
        assert job.manifest.dataset is not None
        digest = job.manifest.dataset.digest
        self.train_quarantine, self.val_quarantine = (
            Quarantine(
                role,
                spec(job.stage, job.dataset_uri),
                digest,
                attempt_uri=job.attempt_uri,
                limit=job.place.max_bad_fraction,
            )
            for role, spec in ((TRAIN, train_spec), (VAL, val_spec))
        )

    def committed(self) -> bool:
        """Whether the weights are there already (collective), so that nothing is left to train.

        The group before this one may have lost a worker between its commit and its end.
        """
        found = read_manifest(self.job.attempt_uri) if self.rank == 0 else None
        if not _of_first_rank(int(found is not None), self.device):
            return False
        manifest = found or self.job.manifest  # what rank 0 reports counts
        self.telemetry.report(Committed(step=manifest.step, metrics=manifest.metrics, earlier=True))
        return True

    def start(self) -> tuple[int, Iterator[dict[str, np.ndarray]]]:
        """Build the engine with its first weights; return the step to go on from, and batches."""
        stage = self.job.stage
        model = build_model(stage.model, seed=stage.seed)
        self.survival.beat(0, "start")
        with self.survival.open_state() as saved:
            step = self.first_step = saved.manifest["step"] if saved is not None else 0
            # The stream starts while the engine is built: both take seconds.
            batches = begun(partial(self.batches, TRAIN)) if step < stage.steps else iter(())
            # DeepSpeed gives the weights of rank 0 to the others.
            notes = self.fill(model, saved) if self.rank == 0 else ()
            self.survival.beat(0, "start")
            model.set_grad_checkpointing(self.job.place.recompute_activations)
            gpu = self.device.type == "cuda"
            optimizer = build_optimizer(
                param_groups(model, stage.optim),
                stage.optim,
                fused=gpu and not self.job.place.zero.offload_optimizer,
            )
            config = zero_config(
                self.job.place.zero,
                self.plan,
                precision=stage.precision,
                clip_norm=stage.optim.clip_norm,
                gpu=gpu,
                leaf_classes=LEAF_CLASSES,
            )
            average = stage.optim.ema_decay is not None
            given = {}
            if self.dtype != torch.float32 and saved is None and self.rank == 0:
                given = {name: p.detach().clone() for name, p in model.named_parameters()}
            self.engine = build_engine(model.to(self.device), optimizer, config, average=average)
            self.survival.beat(0, "start")
            if self.dtype != torch.float32 and saved is None:
                resume_state.set_masters(self.engine, given)
            records: list[Record] = []
            if saved is not None:
                records = saved.manifest["told"]
                resume_state.restore(self.engine, saved, step=step)
                notes = (f"resumed after step {step}", *notes)
        self.telemetry.start(step, records, plan=str(self.plan), notes=notes)
        self.telemetry.reset_clock()
        return step, batches

    def fill(self, model: torch.nn.Module, saved: Pieces | None) -> tuple[str, ...]:
        """Give a fresh model its first weights; say where they are from."""
        if saved is not None:
            model.load_state_dict(resume_state.module_weights(saved))
            damaged = damaged_states(self.job.attempt_uri)
            return tuple(f"the state of step {at} is damaged: {why}" for at, why in damaged.items())
        if not self.job.start_uri:
            return ("fresh weights",)
        stage = self.job.stage
        found, notes = start_weights(
            self.job.start_uri,
            stage.model,
            image_size=stage.init_image_size,
            mean=stage.init_mean,
            std=stage.init_std,
            reset_head=stage.reset_head,
        )
        model.load_state_dict(found)
        return notes

    def batches(self, name: Literal["train", "val"]) -> Iterator[dict[str, np.ndarray]]:
        """This rank's batches of a stream, from its beginning."""
        shard: Any = ray.train.get_dataset_shard(name)  # Ray's type allows for no dataset
        rows = self.plan.local_batch
        return iter(shard.iter_batches(batch_size=rows, batch_format="numpy", prefetch_batches=2))

    def fetch(self, batches: Iterator[dict[str, np.ndarray]], step: int) -> dict[str, Tensor]:
        """The next batch, which must be this step's; time spent waiting is measured."""
        self.survival.beat(step, "fetch")
        began = time.perf_counter()
        batch = next(batches)
        assert (batch["step"] == step).all(), f"step {step} was fed {set(batch['step'].tolist())}"
        self.telemetry.fetched(batch, waited=time.perf_counter() - began)
        self.train_quarantine.add(batch["quarantined"])
        return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in batch.items()}

    def step(self, batch: dict[str, Tensor], step: int) -> None:
        """One optimizer step over the rank's share of the global batch.

        Raises:
            cluster.errors.BadPlace: the first steps of the group do not fit into the GPU.
        """
        self.survival.beat(step, "train")
        try:
            self._train_on(batch, step)
        except torch.OutOfMemoryError:
            if step >= self.first_step + FIRST_STEPS:
                raise  # it did fit: somebody else took of it
            stage, place = self.job.stage, self.job.place
            raise bad_place(stage, place, self.plan, step=step, device=self.device) from None

    def _train_on(self, batch: dict[str, Tensor], step: int) -> None:
        stage = self.job.stage
        learning_rate = lr_at(step, stage.steps, stage.optim)
        set_lr(resume_state.inner_optimizer(self.engine).param_groups, learning_rate)
        total = torch.zeros((), device=self.device)
        keys = self.mask_keys(batch, step)
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
                self.telemetry.drew(BATCH_PICTURE)
            own = None if keys is None else keys[part * micro : (part + 1) * micro]
            logits = self.forward(images, own).float()  # [m, classes]
            loss = loss_fn(stage.loss, logits, targets, label_smoothing=stage.label_smoothing)  # []
            total += loss.detach() / self.plan.accumulation
            if stage.nonfinite == "skip":
                loss = usable_loss(loss, self.forward, images)
            self.engine.backward(loss)
            self.engine.step()  # takes effect after the last micro-batch
        if stage.optim.ema_decay is not None:
            resume_state.update_average(self.engine, stage.optim.ema_decay)
        # The loss stays on the device until it is reported: asking for it would wait for the GPU.
        trained = TrainedStep(step + 1, learning_rate, total, batch["index"])
        self.telemetry.unreported.append(trained)

    def mask_keys(self, batch: dict[str, Tensor], step: int) -> Tensor | None:
        """Keys [b] of what dropout drops of each sample, if the model drops any; one copy a step.

        They know nothing of rank and micro-batch: however the global batch is cut, and after a
        resume, a sample meets the same masks.
        """
        if not drops(self.job.stage.model):
            return None
        seed, gpu = self.job.stage.seed, self.device.type == "cuda"
        keys = sample_keys(seed=seed, step=step, epoch=batch["epoch"], index=batch["index"])
        return keys.pin_memory().to(self.device, non_blocking=True) if gpu else keys

    def forward(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        """Logits [b, classes] of images [b, 3, H, W]; `keys` [b] decide what dropout drops."""
        images = images.to(self.dtype)
        return self.engine(images) if keys is None else self.engine(images, keys)

    def report(self, step: int) -> None:
        """Tell the metrics of every step since the last report, where there are any."""
        if self.telemetry.unreported:
            self.telemetry.report_steps(step, self.engine, self.train_quarantine)

    def save(self, step: int) -> None:
        """Begin to write the resume state; it does not know how many workers wrote it."""
        self.report(step)  # looks at the losses: what is no number is not saved
        records = self.telemetry.carry_over()
        self.survival.save(step, resume_state.own_pieces(self.engine), records)
        self.telemetry.reset_clock()

    def preempted(self) -> bool:
        """Whether a node was given notice since the last look (collective): save while it lives."""
        ranks = self.survival.notice()
        if ranks is not None:
            self.telemetry.report(Preempted(ranks=tuple(ranks)))
        return ranks is not None

    @torch.no_grad()
    def evaluate(self, step: int, *, last: bool = False) -> dict[str, float]:
        """Evaluate on the validation split; every rank returns the same metrics.

        At the last step the average is evaluated too, as `val_ema/...`: in a plain model of its
        own, for every rank a whole one.
        """
        self.report(step)  # before the clock starts anew: steps are timed without evaluating
        began = time.perf_counter()
        self.engine.eval()
        metrics = self.classify("val", self.forward)
        if last and self.job.stage.optim.ema_decay is not None:
            model = build_model(self.job.stage.model, seed=self.job.stage.seed)
            resume_state.fill_with_average(self.engine, model)
            model.to(self.device, self.dtype).eval()
            metrics |= self.classify("val_ema", lambda images: model(images.to(self.dtype)))
        self.engine.train()
        metrics["val/seconds"] = time.perf_counter() - began
        self.telemetry.report_metrics(Evaluated(step=step, metrics=metrics))
        self.telemetry.check(self.val_quarantine, step)
        self.telemetry.reset_clock()
        return metrics

    def classify(self, prefix: str, forward: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Accuracy and loss on the validation split, named PREFIX/... (collective)."""
        found = classification(
            forward,
            self.watched(self.batches(VAL)),
            device=self.device,
            micro_batch=self.job.place.max_micro_batch,
        )
        return {f"{prefix}/{name}": value for name, value in found}

    def watched(self, batches: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        """The same batches, with an eye on damaged samples."""
        for batch in batches:
            self.survival.beat(self.job.stage.steps, "evaluate")
            self.val_quarantine.add(batch["quarantined"])
            yield batch

    def commit(self, metrics: dict[str, float]) -> None:
        """Hand the weights to whoever comes next: bytes first, manifest last.

        The driver drops the resume states once it has heard of the commit.

        Raises:
            Stopped: a metric is not finite.
        """
        stage = self.job.stage
        reason = explain_metrics(stage.steps, metrics)
        if reason:
            raise Stopped(reason)
        self.survival.beat(stage.steps, "commit")
        self.survival.settle()
        tensors = resume_state.gather_weights(self.engine)
        average: dict[str, Tensor] | None = None
        if stage.optim.ema_decay is not None:
            average = resume_state.gather_weights(self.engine, resume_state.AVERAGE)
        earlier = False
        if self.rank == 0:
            manifest = replace(self.job.manifest, step=stage.steps, metrics=metrics)
            try:
                weights.commit(self.job.attempt_uri, tensors, manifest.to_json(), ema=average)
            except WeightsExist:  # a group that was given up for dead was faster: the same training
                earlier = True
        dist.barrier()
        self.telemetry.report(Committed(step=stage.steps, metrics=metrics, earlier=earlier))
