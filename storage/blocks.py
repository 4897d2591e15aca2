"""The blocks of a stream: each is some consecutive steps of one rank, or some samples in order.

Blocks are numbered, and dealt to the ranks in turn. From the number alone a process knows which
samples a block holds (`order.py`) and reads them: the same block in every process.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from storage.cache import Cache
from storage.columns import Batch, StreamSpec, columns, open_stream
from storage.dataset import load_dataset
from storage.order import rank_draws


@dataclass(frozen=True, kw_only=True)
class _Plan:
    spec: StreamSpec
    digest: str
    world_size: int
    ranks: range
    """Those that the blocks are dealt to."""
    cache: Cache | None

    def turn(self, item: int) -> tuple[int, int]:
        """The turn of an item, and the rank that gets it."""
        turn, nth = divmod(item, len(self.ranks))
        return turn, self.ranks[nth]


@dataclass(frozen=True, kw_only=True)
class TrainPlan(_Plan):
    """Of training: the batches of the steps [start_step, stop_step)."""

    start_step: int
    stop_step: int
    steps_per_block: int
    pieces: int
    """Equal blocks that a rank's batches of a group of steps are cut into."""

    def block(self, item: int) -> Batch:
        """Read the batches of one rank for a group of consecutive steps, or a piece of them."""
        opened = open_stream(self.spec, self.digest, self.cache)
        turn, rank = self.turn(item)
        group, piece = divmod(turn, self.pieces)
        first = self.start_step + group * self.steps_per_block
        steps = range(first, min(first + self.steps_per_block, self.stop_step))
        parts = [
            rank_draws(opened.order, step, rank=rank, world_size=self.world_size) for step in steps
        ]
        epoch, chosen, visit = map(np.concatenate, zip(*parts, strict=True))  # [n] each
        step = np.repeat(np.array(steps, dtype=np.int64), len(chosen) // len(steps))  # [n]
        if self.pieces > 1:
            rows = len(chosen) // self.pieces
            mine = slice(piece * rows, (piece + 1) * rows)
            epoch, chosen, visit, step = epoch[mine], chosen[mine], visit[mine], step[mine]
        return {**columns(opened, chosen, visit, replace=True), "epoch": epoch, "step": step}


@dataclass(frozen=True, kw_only=True)
class EvalPlan(_Plan):
    """Of an evaluation: each sample of the split once."""

    rows: int

    def block(self, item: int) -> Batch:
        """Read `rows` consecutive samples, padded at the end of the split."""
        opened = open_stream(self.spec, self.digest, self.cache)
        turn, rank = self.turn(item)
        start = min((turn * self.world_size + rank) * self.rows, opened.samples)
        chosen = np.arange(start, min(start + self.rows, opened.samples), dtype=np.int64)
        zero = np.zeros(self.rows, dtype=np.int64)
        found = columns(opened, chosen, np.zeros_like(chosen), replace=False)
        padding = self.rows - len(chosen)
        whole = {
            name: np.pad(
                column,
                [(0, padding)] + [(0, 0)] * (column.ndim - 1),
                constant_values=-1 if name in ("label", "index", "quarantined") else 0,
            )
            for name, column in found.items()
        }
        return {**whole, "epoch": zero, "step": zero}


def train_batch(spec: StreamSpec, step: int) -> Batch:
    """Read the whole global batch of one step (the slices of all ranks) in this process."""
    digest = load_dataset(spec.dataset).digest
    plan = TrainPlan(
        spec=spec,
        digest=digest,
        start_step=step,
        stop_step=step + 1,
        world_size=1,
        ranks=range(1),
        steps_per_block=1,
        pieces=1,
        cache=None,
    )
    return plan.block(0)


def eval_batches(spec: StreamSpec) -> Iterator[Batch]:
    """Read every selected sample exactly once in this process, without padding."""
    digest = load_dataset(spec.dataset).digest
    samples, rows = open_stream(spec, digest).samples, spec.global_batch
    plan = EvalPlan(spec=spec, digest=digest, world_size=1, ranks=range(1), rows=rows, cache=None)
    for item in range(-(-samples // rows)):
        batch = plan.block(item)
        known = batch["index"] >= 0
        yield {name: column[known] for name, column in batch.items()}
