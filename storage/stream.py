"""Stream batches with Ray Data: tasks on any node read, check and decode; blocks arrive in order.

A block has a number. The task that gets it computes which samples those are and reads them
(`blocks.py`). `streaming_split` with `equal=True` and `preserve_order` deals blocks of equal size
out in turn (`dealing.py`), so rank r receives exactly its slice of every step. A task that is
retried, on any node, returns the same block. There is no state between tasks, so a stream may
start at any step for any number of ranks.

A block contains several steps of a rank if batches or images are small: with one batch of 64
photographs per block a quarter of the throughput would be spent on moving blocks.
"""

from dataclasses import replace

import ray.data

from storage.ahead import Ahead
from storage.blocks import EvalPlan, TrainPlan
from storage.cache import Cache
from storage.columns import StreamSpec, open_stream, order_of
from storage.dataset import Dataset, load_dataset
from storage.errors import BadOrder
from storage.order import rank_slice
from storage.tasks import blocks_in_order

DECODE_CPUS = 0.5  # per task: one decodes while another moves its block (20 % more images/s)
ROWS_PER_BLOCK = 128  # at 224 pixels; an eighth of a second of decoding photographs
MOST_ROWS = 512  # of a block, where a rank's batch can be cut: half a second, and 77 MB at 224 px


def train_stream(
    spec: StreamSpec,
    *,
    start_step: int,
    stop_step: int,
    world_size: int,
    ranks: range | None = None,
    dataset: Dataset | None = None,
    num_cpus: float = DECODE_CPUS,
    rows_per_block: int | None = None,
    cache: Cache | None = None,
    nodes: dict[str, str] | None = None,
) -> ray.data.Dataset:
    """Stream the steps [start_step, stop_step), dealt in turn to `ranks`, by default to all.

    `dataset` is that of the spec, where it is loaded already.

    Columns of a rank's batch, b = global_batch / world_size: image uint8 [b, H, W, 3], label int64
    [b], index int64 [b] (position in the split), epoch int64 [b], visit int64 [b] (which time the
    sample is drawn: the epoch, unless classes are balanced), step int64 [b], quarantined int64 [b]
    (position of the damaged sample that this row replaces, else -1); requests, bytes int64 [b]: the
    cost of reading the block, in its first row; with mixup or cutmix, mix float64 [b, 5], as
    `augment.mix_draws` gives it. `dealing.deal` deals the blocks out, and a rank iterates with
    `batch_size=b`. Blocks hold whole batches of one rank; `rows_per_block` decides how many, by
    default the size of an image. A batch of more than `MOST_ROWS` is cut into equal blocks, so that
    several tasks decode it. This does not change the batches, and neither do `cache`, for shards on
    each node's disk, and `nodes`, Ray's label selector for where tasks may run.

    Raises BadOrder, BadSelection, BadDataset; tasks raise BadDataset, Unavailable.
    """
    if not 0 <= start_step < stop_step:
        raise BadOrder(f"steps {start_step}..{stop_step}: wanted an ascending range from 0")
    dataset = dataset or load_dataset(spec.dataset)
    spec = _resolved(spec, dataset)  # so that errors of a wrong spec are raised here, not in tasks
    ranks = ranks or range(world_size)
    rows = rank_slice(spec.global_batch, rank=0, world_size=world_size).stop
    in_block = rows_per_block or rows_of_block(spec.crop.image_size)
    steps_per_block = max(1, min(in_block // rows, stop_step - start_step))
    groups = -(-(stop_step - start_step) // steps_per_block)
    pieces = _pieces(rows)
    plan = TrainPlan(
        spec=spec,
        digest=dataset.digest,
        start_step=start_step,
        stop_step=stop_step,
        world_size=world_size,
        ranks=ranks,
        steps_per_block=steps_per_block,
        pieces=pieces,
        cache=cache,
    )
    rows = steps_per_block * rows // pieces
    return _dealt(plan, groups * pieces, rows, num_cpus=num_cpus, nodes=nodes)


def rows_of_block(image_size: int) -> int:
    """Rows that take the bytes of `ROWS_PER_BLOCK` images of 224 pixels, within the two limits.

    Moving a block takes 9 ms of a CPU whatever is in it, which is long for small images.
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
    ranks: range | None = None,
    dataset: Dataset | None = None,
    num_cpus: float = DECODE_CPUS,
    rows_per_block: int = ROWS_PER_BLOCK,
    cache: Cache | None = None,
    nodes: dict[str, str] | None = None,
) -> ray.data.Dataset:
    """Stream every selected sample exactly once, in storage order, dealt to the ranks in turn.

    A stream of some `ranks` has only their samples; streams of all ranks together have all.

    The columns are those of `train_stream`, with epoch, visit and step 0. Every rank gets the same
    number of blocks with the same number of rows, a multiple of global_batch / world_size; the end
    is padded with rows of label -1, index -1 and a black image. A sample that cannot be used
    becomes such a row too, so that no other sample is evaluated twice.
    """
    dataset = dataset or load_dataset(spec.dataset)
    spec = _resolved(spec, dataset)
    ranks = ranks or range(world_size)
    samples = open_stream(spec, dataset.digest).samples
    batch_rows = rank_slice(spec.global_batch, rank=0, world_size=world_size).stop
    batches = -(-samples // spec.global_batch)  # of each rank
    batches_per_block = max(1, min(rows_per_block // batch_rows, batches))
    rows = batches_per_block * batch_rows
    plan = EvalPlan(
        spec=spec,
        digest=dataset.digest,
        world_size=world_size,
        ranks=ranks,
        rows=rows,
        cache=cache,
    )
    turns = -(-batches // batches_per_block)
    return _dealt(plan, turns, rows, num_cpus=num_cpus, nodes=nodes)


def _resolved(spec: StreamSpec, dataset: Dataset) -> StreamSpec:
    """The same stream with its run length filled in, so that no task has to compute it again."""
    return replace(spec, run_samples=order_of(spec, dataset).run_samples)


def _dealt(
    plan: TrainPlan | EvalPlan,
    turns: int,
    rows: int,
    *,
    num_cpus: float,
    nodes: dict[str, str] | None,
) -> ray.data.Dataset:
    """The stream of a plan: in each turn one block, of so many rows, for each of its ranks."""
    ranks = len(plan.ranks)
    ahead = Ahead(
        rows * 3 * plan.spec.crop.image_size**2, consumers=ranks, share=ranks / plan.world_size
    )
    return blocks_in_order(plan.block, turns * ranks, num_cpus, ahead=ahead, nodes=nodes)
