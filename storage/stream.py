"""Ray Data runs the plan: tasks anywhere in the cluster read, check and decode; blocks arrive in
order.

A plan item is one integer. Item i stands for some consecutive steps of one rank; the task that gets
it computes which samples those are (`order.py`), reads them and returns one block. Consumed by
`streaming_split(world_size, equal=True)` with `preserve_order`, which deals blocks of equal size
out in turn, rank r receives exactly its slice of every step; a task that is retried, on any node,
returns the same block. Nothing is held between tasks, so a stream may start at any step for any
number of ranks.

A block holds several steps of a rank where batches are small: at one 64-image batch a block a
quarter of the throughput goes into moving blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import ray.data

from storage.dataset import Dataset, load_dataset
from storage.decode import Crop, decode
from storage.errors import BadDataset, BadImage, BadOrder, BadSample
from storage.index import SampleIndex, load_index
from storage.objects import ObjectStore, open_store
from storage.order import OrderSpec, Tail, natural_run, rank_batch, rank_slice
from storage.reader import read_samples
from storage.selection import EVERYTHING, Selection, select
from storage.tasks import Batch, blocks_in_order

ROWS_PER_BLOCK = 128  # about a second of decoding photographs


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """What is streamed: everything that the sequence of batches depends on."""

    dataset: str
    """Where the dataset lies."""
    split: str = "train"
    """Split of the dataset."""
    selection: Selection = EVERYTHING
    """Which samples of the split."""
    crop: Crop
    """Which part of an image becomes the sample."""
    seed: int = 0
    """Seed of the order and of the crops."""
    global_batch: int
    """Samples a step over all ranks."""
    tail: Tail = "drop"
    """What becomes of the samples that do not fill the last batch of an epoch."""
    run_samples: int | None = None
    """Neighbours that are read, and stay, together; 1 is a full shuffle. Default: `natural_run`."""


def order_of(spec: StreamSpec, dataset: Dataset | None = None) -> OrderSpec:
    """The order of a stream: what `order.steps_per_epoch` and `order.global_batch` want."""
    opened = _open(spec, dataset.digest if dataset else load_dataset(spec.dataset).digest)
    return opened.order


def train_stream(
    spec: StreamSpec,
    *,
    start_step: int,
    stop_step: int,
    world_size: int,
    num_cpus: float = 1.0,
    rows_per_block: int = ROWS_PER_BLOCK,
) -> ray.data.Dataset:
    """The steps [start_step, stop_step), dealt to ranks in turn.

    Columns of a rank's batch, b = global_batch / world_size: image uint8 [b, H, W, 3], label int64
    [b], index int64 [b] (position in the split), epoch int64 [b], step int64 [b]. The consumer sets
    `preserve_order`, splits with `equal=True` and iterates with `batch_size=b`. Blocks hold whole
    batches of one rank; `rows_per_block` decides how many and changes nothing else. Raises
    BadOrder, BadSelection, BadDataset; tasks raise BadSample, BadDataset, Unavailable.
    """
    if not 0 <= start_step < stop_step:
        raise BadOrder(f"steps {start_step}..{stop_step} are no steps")
    dataset = load_dataset(spec.dataset)
    _open(spec, dataset.digest)  # the errors of a wrong spec belong to the caller, not to a task
    rows = rank_slice(spec.global_batch, rank=0, world_size=world_size).stop
    steps_per_block = max(1, min(rows_per_block // rows, stop_step - start_step))
    groups = -(-(stop_step - start_step) // steps_per_block)
    plan = _TrainPlan(
        spec=spec,
        digest=dataset.digest,
        start_step=start_step,
        stop_step=stop_step,
        world_size=world_size,
        steps_per_block=steps_per_block,
    )
    return blocks_in_order(plan.block, groups * world_size, num_cpus)


def eval_stream(
    spec: StreamSpec,
    *,
    world_size: int,
    num_cpus: float = 1.0,
    rows_per_block: int = ROWS_PER_BLOCK,
) -> ray.data.Dataset:
    """Every selected sample exactly once, in storage order, dealt to ranks in turn.

    Columns as in `train_stream`, epoch and step 0. Every rank gets the same number of blocks of the
    same number of rows, a multiple of global_batch / world_size; what is missing at the end is
    filled with rows of label -1, index -1 and a black image.
    """
    dataset = load_dataset(spec.dataset)
    samples = _open(spec, dataset.digest).samples
    batch_rows = rank_slice(spec.global_batch, rank=0, world_size=world_size).stop
    batches = -(-samples // spec.global_batch)  # of each rank
    batches_per_block = max(1, min(rows_per_block // batch_rows, batches))
    blocks = -(-batches // batches_per_block) * world_size
    plan = _EvalPlan(spec=spec, digest=dataset.digest, rows=batches_per_block * batch_rows)
    return blocks_in_order(plan.block, blocks, num_cpus)


def train_batch(spec: StreamSpec, step: int) -> Batch:
    """The whole global batch of one step, read in this process: all ranks' slices in one."""
    digest = load_dataset(spec.dataset).digest
    plan = _TrainPlan(
        spec=spec,
        digest=digest,
        start_step=step,
        stop_step=step + 1,
        world_size=1,
        steps_per_block=1,
    )
    return plan.block(0)


def eval_batches(spec: StreamSpec) -> Iterator[Batch]:
    """Every selected sample exactly once, read in this process, without padding."""
    digest = load_dataset(spec.dataset).digest
    samples, rows = _open(spec, digest).samples, spec.global_batch
    plan = _EvalPlan(spec=spec, digest=digest, rows=rows)
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

    def block(self, item: int) -> Batch:
        """The batches of one rank in a group of consecutive steps, one after the other."""
        opened = _open(self.spec, self.digest)
        group, rank = divmod(item, self.world_size)
        first = self.start_step + group * self.steps_per_block
        steps = range(first, min(first + self.steps_per_block, self.stop_step))
        parts = [
            rank_batch(opened.order, step, rank=rank, world_size=self.world_size) for step in steps
        ]
        epoch = np.concatenate([part[0] for part in parts])  # [n]
        chosen = np.concatenate([part[1] for part in parts])  # [n]
        step = np.repeat(np.array(steps, dtype=np.int64), len(chosen) // len(steps))  # [n]
        return {**_samples(opened, self.spec, chosen, epoch), "epoch": epoch, "step": step}


@dataclass(frozen=True, kw_only=True)
class _EvalPlan:
    spec: StreamSpec
    digest: str
    rows: int

    def block(self, item: int) -> Batch:
        """`rows` consecutive samples, padded at the end of the split."""
        opened = _open(self.spec, self.digest)
        start = min(item * self.rows, opened.samples)
        chosen = np.arange(start, min(start + self.rows, opened.samples), dtype=np.int64)
        zero = np.zeros(self.rows, dtype=np.int64)
        found = _samples(opened, self.spec, chosen, np.zeros_like(chosen))
        padding = self.rows - len(chosen)
        whole = {
            name: np.pad(
                column,
                [(0, padding)] + [(0, 0)] * (column.ndim - 1),
                constant_values=0 if name == "image" else -1,
            )
            for name, column in found.items()
        }
        return {**whole, "epoch": zero, "step": zero}


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """What a process keeps of a stream: mapped files and, where there is a selection, its
    positions."""

    store: ObjectStore
    index: SampleIndex
    order: OrderSpec
    positions: np.ndarray | None
    """Position in the split of each selected sample [N], None if all are."""
    labels: np.ndarray
    """Label of each selected sample [N]."""

    @property
    def samples(self) -> int:
        return self.order.samples


@lru_cache(maxsize=8)
def _open(spec: StreamSpec, digest: str) -> _Opened:
    dataset = load_dataset(spec.dataset)
    if dataset.digest != digest:
        raise BadDataset(
            f"{dataset.uri} was replaced while it was in use: digest {dataset.digest[:12]}, the "
            "run "
            f"began with {digest[:12]}"
        )
    index = load_index(dataset, spec.split)
    if spec.selection.everything:
        positions, labels = None, index.labels
    else:
        positions, labels = select(index, spec.selection)
    order = OrderSpec(
        digest=digest,
        samples=len(labels),
        seed=spec.seed,
        global_batch=spec.global_batch,
        tail=spec.tail,
        run_samples=spec.run_samples or natural_run(labels, global_batch=spec.global_batch),
    )
    return _Opened(
        store=open_store(spec.dataset),
        index=index,
        order=order,
        positions=positions,
        labels=labels,
    )


def _samples(opened: _Opened, spec: StreamSpec, chosen: np.ndarray, epoch: np.ndarray) -> Batch:
    """Read and decode: chosen int64 [n] (among the selected), epoch int64 [n] -> columns of n
    rows."""
    position = chosen if opened.positions is None else opened.positions[chosen]  # [n]
    side = spec.crop.image_size
    image = np.empty((len(chosen), side, side, 3), dtype=np.uint8)
    for raw in read_samples(opened.store, opened.index, position):
        row = raw.request
        try:
            image[row] = decode(
                raw.data,
                spec.crop,
                seed=spec.seed,
                epoch=int(epoch[row]),
                index=int(position[row]),
            )
        except BadImage as error:
            raise BadSample(raw.shard, raw.key, str(error)) from None
    return {
        "image": image,
        "label": opened.labels[chosen].astype(np.int64),
        "index": position.astype(np.int64),
    }
