"""Stream batches with Ray Data: tasks on any node read, check and decode; blocks arrive in order.

A plan item is one integer. Item i stands for some consecutive steps of one rank; the task that gets
it computes which samples those are (`order.py`), reads them and returns one block.
`streaming_split(world_size, equal=True)` with `preserve_order` deals blocks of equal size out in
turn, so rank r receives exactly its slice of every step. A task that is retried, on any node,
returns the same block. There is no state between tasks, so a stream may start at any step for any
number of ranks.

A block contains several steps of a rank if batches or images are small: with one batch of 64
photographs per block a quarter of the throughput would be spent on moving blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
import ray.data

from storage.cache import Cache
from storage.columns import Batch, StreamSpec, columns, open_stream, order_of
from storage.dataset import Dataset, load_dataset
from storage.errors import BadOrder
from storage.order import rank_draws, rank_slice
from storage.tasks import Ahead, blocks_in_order

DECODE_CPUS = 0.5  # per task: one decodes while another moves its block (20 % more images/s)
_AHEAD_BLOCKS = 16  # per rank
_AHEAD_BYTES = 1 << 30  # minimum: Ray assumes 128 MiB for a task of unknown output
ROWS_PER_BLOCK = 128  # at 224 pixels; an eighth of a second of decoding photographs
MOST_ROWS = 512  # of a block, where a rank's batch can be cut: half a second, and 77 MB at 224 px


def train_stream(
    spec: StreamSpec,
    *,
    start_step: int,
    stop_step: int,
    world_size: int,
    num_cpus: float = DECODE_CPUS,
    rows_per_block: int | None = None,
    cache: Cache | None = None,
    nodes: dict[str, str] | None = None,
) -> ray.data.Dataset:
    """Stream the steps [start_step, stop_step), dealt to the ranks in turn.

    Columns of a rank's batch, b = global_batch / world_size: image uint8 [b, H, W, 3], label int64
    [b], index int64 [b] (position in the split), epoch int64 [b], visit int64 [b] (which time the
    sample is drawn: the epoch, unless classes are balanced), step int64 [b], quarantined int64 [b]
    (position of the damaged sample that this row replaces, else -1); requests, bytes int64 [b]: the
    cost of reading the block, in its first row; with mixup or cutmix, mix float64 [b, 5], as
    `augment.mix_draws` gives it. The consumer sets `preserve_order`, splits with
    `equal=True` and iterates with `batch_size=b`. Blocks hold whole batches of one rank;
    `rows_per_block` decides how many, by default the size of an image. A batch of more than
    `MOST_ROWS` is cut into equal blocks, so that several tasks decode it. This does not change the
    batches, and neither do `cache`, for shards on each node's disk, and `nodes`, Ray's label
    selector for where tasks may run.

    Raises BadOrder, BadSelection, BadDataset; tasks raise BadDataset, Unavailable.
    """
    if not 0 <= start_step < stop_step:
        raise BadOrder(f"steps {start_step}..{stop_step}: wanted an ascending range from 0")
    dataset = load_dataset(spec.dataset)
    spec = _resolved(spec, dataset)  # so that errors of a wrong spec are raised here, not in tasks
    rows = rank_slice(spec.global_batch, rank=0, world_size=world_size).stop
    in_block = rows_per_block or rows_of_block(spec.crop.image_size)
    steps_per_block = max(1, min(in_block // rows, stop_step - start_step))
    groups = -(-(stop_step - start_step) // steps_per_block)
    pieces = _pieces(rows)
    plan = _TrainPlan(
        spec=spec,
        digest=dataset.digest,
        start_step=start_step,
        stop_step=stop_step,
        world_size=world_size,
        steps_per_block=steps_per_block,
        pieces=pieces,
        cache=cache,
    )
    ahead = _ahead(spec, steps_per_block * rows // pieces, world_size, num_cpus)
    items = groups * pieces * world_size
    return blocks_in_order(plan.block, items, num_cpus, ahead=ahead, nodes=nodes)


def rows_of_block(image_size: int) -> int:
    """Rows that take the bytes of `ROWS_PER_BLOCK` images of 224 pixels, within the two limits.

    Moving a block takes 15 ms of a CPU whatever is in it, which is long for small images.
    """
    return min(max(ROWS_PER_BLOCK, ROWS_PER_BLOCK * 224**2 // image_size**2), MOST_ROWS)


def _pieces(rows: int) -> int:
    """Into how many equal blocks a rank's batch is cut; 1 if no divisor of its rows fits."""
    fitting = (n for n in range(1, rows // ROWS_PER_BLOCK + 1) if rows % n == 0)
    return next((n for n in fitting if rows // n <= MOST_ROWS), 1)


def eval_stream(
    spec: StreamSpec,
    *,
    world_size: int,
    num_cpus: float = DECODE_CPUS,
    rows_per_block: int = ROWS_PER_BLOCK,
    cache: Cache | None = None,
    nodes: dict[str, str] | None = None,
) -> ray.data.Dataset:
    """Stream every selected sample exactly once, in storage order, dealt to the ranks in turn.

    The columns are those of `train_stream`, with epoch, visit and step 0. Every rank gets the same
    number of blocks with the same number of rows, a multiple of global_batch / world_size; the end
    is padded with rows of label -1, index -1 and a black image. A sample that cannot be used
    becomes such a row too, so that no other sample is evaluated twice.
    """
    dataset = load_dataset(spec.dataset)
    spec = _resolved(spec, dataset)
    samples = open_stream(spec, dataset.digest).samples
    batch_rows = rank_slice(spec.global_batch, rank=0, world_size=world_size).stop
    batches = -(-samples // spec.global_batch)  # of each rank
    batches_per_block = max(1, min(rows_per_block // batch_rows, batches))
    blocks = -(-batches // batches_per_block) * world_size
    rows = batches_per_block * batch_rows
    plan = _EvalPlan(spec=spec, digest=dataset.digest, rows=rows, cache=cache)
    ahead = _ahead(spec, rows, world_size, num_cpus)
    return blocks_in_order(plan.block, blocks, num_cpus, ahead=ahead, nodes=nodes)


def _resolved(spec: StreamSpec, dataset: Dataset) -> StreamSpec:
    """The same stream with its run length filled in, so that no task has to compute it again."""
    return replace(spec, run_samples=order_of(spec, dataset).run_samples)


def _ahead(spec: StreamSpec, rows: int, world_size: int, num_cpus: float) -> Ahead:
    """Which blocks may wait: enough to keep all CPUs busy and serve every rank."""
    cluster: Any = ray
    at_work = float(cluster.cluster_resources().get("CPU", 1.0)) / num_cpus
    blocks = max(_AHEAD_BLOCKS * world_size, 4 * int(at_work))
    return Ahead(blocks, bytes=max(_AHEAD_BYTES, blocks * rows * 3 * spec.crop.image_size**2))


def train_batch(spec: StreamSpec, step: int) -> Batch:
    """Read the whole global batch of one step (the slices of all ranks) in this process."""
    digest = load_dataset(spec.dataset).digest
    plan = _TrainPlan(
        spec=spec,
        digest=digest,
        start_step=step,
        stop_step=step + 1,
        world_size=1,
        steps_per_block=1,
        pieces=1,
        cache=None,
    )
    return plan.block(0)


def eval_batches(spec: StreamSpec) -> Iterator[Batch]:
    """Read every selected sample exactly once in this process, without padding."""
    digest = load_dataset(spec.dataset).digest
    samples, rows = open_stream(spec, digest).samples, spec.global_batch
    plan = _EvalPlan(spec=spec, digest=digest, rows=rows, cache=None)
    for item in range(-(-samples // rows)):
        batch = plan.block(item)
        known = batch["index"] >= 0
        yield {name: column[known] for name, column in batch.items()}


@dataclass(frozen=True, kw_only=True)
class _TrainPlan:
    spec: StreamSpec
    digest: str
    start_step: int
    stop_step: int
    world_size: int
    steps_per_block: int
    pieces: int
    """Equal blocks that a rank's batches of a group of steps are cut into."""
    cache: Cache | None

    def block(self, item: int) -> Batch:
        """Read the batches of one rank for a group of consecutive steps, or a piece of them."""
        opened = open_stream(self.spec, self.digest, self.cache)
        turn, rank = divmod(item, self.world_size)
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
class _EvalPlan:
    spec: StreamSpec
    digest: str
    rows: int
    cache: Cache | None

    def block(self, item: int) -> Batch:
        """Read `rows` consecutive samples, padded at the end of the split."""
        opened = open_stream(self.spec, self.digest, self.cache)
        start = min(item * self.rows, opened.samples)
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
