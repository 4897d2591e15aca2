"""Which sample comes when: a pure function of (dataset digest, seed, epoch, global batch).

It does not depend on a clock, a host, the number of workers or any state. Any step of a run is
computed directly, so a killed run resumes at step k by asking for step k, and any number of workers
slices the same batch.

How an epoch is shuffled: the split is cut into runs of `run_samples` neighbours, and the runs are
permuted over the whole epoch by a keyed bijection (`permutation.py`). A run is one ranged read:
with runs of 16 a batch of 1,024 costs 64 reads instead of 1,024; `run_samples=1` is a full shuffle.
`natural_run` chooses the length. The usual window of whole shards mixes far worse at equal cost:
with a window of 16 shards a batch of a class-sorted dataset has 16 classes, with runs of 16 it has
64. Where classes are balanced, what is shuffled are the epoch's draws (`balance.py`), one by one.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from storage.balance import Balanced
from storage.errors import BadOrder
from storage.permutation import Permutation

Tail = Literal["drop", "carry"]
_LONGEST_RUN = 16  # 1.8 MB of photographs: longer reads are hardly cheaper per byte on S3
_WINDOWS, _WINDOW = 1024, 64  # number and length of the windows whose labels are compared
_EXCESS = 10  # the design effect stays below 1 + 1/10


@dataclass(frozen=True, kw_only=True)
class OrderSpec:
    """Everything the order depends on."""

    digest: str
    """Digest of the dataset."""
    samples: int
    """Samples per epoch, N: those of the split, or of the selection from it."""
    seed: int
    """Seed of the shuffle."""
    global_batch: int
    """Samples per step over all workers, G."""
    tail: Tail = "drop"
    """What happens at the end of an epoch. `drop`: floor(N / G) batches per epoch, and the rest of
    that epoch's permutation is not used. `carry`: epochs follow each other without a gap, and a
    batch may span two (or many if N < G)."""
    run_samples: int = 1
    """Number of neighbours that stay together; 1 is a full shuffle."""
    balanced: Balanced | None = None
    """What an epoch draws where classes are balanced. None: each sample once."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise BadOrder(
                f"the selection is empty: wanted at least 1 sample, found {self.samples}"
            )
        if self.global_batch < 1 or self.run_samples < 1:
            raise BadOrder(
                f"global_batch {self.global_batch} and run_samples {self.run_samples}: wanted at"
                " least 1"
            )
        if self.balanced and self.run_samples > 1:
            raise BadOrder(
                f"run_samples {self.run_samples}: balanced classes are a full shuffle - set it to 1"
            )
        if self.tail == "drop" and self.samples < self.global_batch:
            raise BadOrder(
                f"tail 'drop' uses only whole batches, and {self.samples} samples do not fill one"
                f" of {self.global_batch}: set tail 'carry' or a smaller global batch"
            )


class Draws(NamedTuple):
    """Samples in the order in which they are drawn, [n] of each."""

    epoch: np.ndarray
    """int64 [n]."""
    position: np.ndarray
    """int64 [n] in [0, N)."""
    visit: np.ndarray
    """int64 [n]: which time the sample is drawn, from 0. That is the epoch, unless classes are
    balanced. Crop, augmentation and dropout depend on it."""


def longest_run(samples: int, *, global_batch: int) -> int:
    """Length of a run in shards that were shuffled when they were written, 1..16.

    An epoch has at least 4,096 runs and a batch 16, so that the same few samples do not always
    share a batch.
    """
    return max(1, min(_LONGEST_RUN, samples // 4096, global_batch // 16))


def natural_run(labels: np.ndarray, *, global_batch: int) -> int:
    """The longest run that mixes practically as well as a full shuffle: labels int [N] -> 1..16.

    A batch of whole runs is a cluster sample. Its mean gradient has the variance of a batch that is
    smaller by the design effect 1 + (run - 1) * rho, where rho is the correlation of neighbours
    (Kish, "Survey Sampling", 1965, section 5.4). Here rho is estimated from the labels, and the
    effect is kept below 1.1. Shards that were shuffled when they were written have rho 0,
    class-sorted ones 1. The result is at most `longest_run`. It is computed in whole numbers, so
    that every machine gets the same.
    """
    samples = len(labels)
    longest = longest_run(samples, global_batch=global_batch)
    if longest == 1:
        return 1
    some = _sampled(samples)
    here, behind = labels[some], labels[some + 1]
    pairs = len(here)
    alike = int(np.count_nonzero(here == behind))
    counts = np.unique(here, return_counts=True)[1]
    by_chance = sum(int(count) ** 2 for count in counts)  # of pairs**2
    if 1000 * by_chance > 999 * pairs**2:  # practically one class: labels show nothing
        return longest
    excess = alike * pairs - by_chance  # rho is excess / (pairs**2 - by_chance)
    if excess <= 0:
        return longest
    return min(longest, 1 + (pairs**2 - by_chance) // (_EXCESS * excess))


def _sampled(samples: int) -> np.ndarray:
    """Positions that are compared with their successors: all, or some evenly spread windows.

    Windows, because each single position would touch another page of the index: every process that
    opens the stream would map 4 GiB and spend a minute on 300 million samples.
    """
    if samples - 1 <= _WINDOWS * _WINDOW:
        return np.arange(samples - 1)
    start = np.linspace(0, samples - 1 - _WINDOW, _WINDOWS).astype(np.int64)
    return (start[:, None] + np.arange(_WINDOW)).ravel()


def steps_per_epoch(spec: OrderSpec) -> int:
    """Batches per epoch: floor(N / G) for `drop`, ceil(N / G) for `carry`."""
    if spec.tail == "drop":
        return spec.samples // spec.global_batch
    return -(-spec.samples // spec.global_batch)


def epochs_at(spec: OrderSpec, step: int) -> float:
    """Epochs completed before `step`, as a fraction, for progress and logs."""
    if spec.tail == "drop":
        return step / steps_per_epoch(spec)
    return step * spec.global_batch / spec.samples


def global_batch(spec: OrderSpec, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The samples of one step -> (epoch int64 [G], position int64 [G]), positions in [0, N)."""
    return rank_batch(spec, step, rank=0, world_size=1)


def rank_batch(
    spec: OrderSpec, step: int, *, rank: int, world_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """One rank's slice of the global batch, b = G / W -> (epoch int64 [b], position int64 [b])."""
    drawn = rank_draws(spec, step, rank=rank, world_size=world_size)
    return drawn.epoch, drawn.position


def rank_draws(spec: OrderSpec, step: int, *, rank: int, world_size: int) -> Draws:
    """One rank's slice of the global batch, with the visit of each sample: [b], b = G / W."""
    rows = rank_slice(spec.global_batch, rank=rank, world_size=world_size)
    row = np.arange(rows.start, rows.stop, dtype=np.int64)  # [b]
    if spec.tail == "drop":
        first_epoch, step_in_epoch = divmod(step, steps_per_epoch(spec))
        epoch = np.full(len(row), first_epoch, dtype=np.int64)
        slot = step_in_epoch * spec.global_batch + row
    else:
        epoch, slot = np.divmod(step * spec.global_batch + row, spec.samples)
    position, visit = np.empty_like(slot), np.empty_like(slot)
    for one in np.unique(epoch):  # one, or two at an epoch's edge; more only where N < G
        here = epoch == one
        position[here], visit[here] = epoch_draws(spec, int(one), slot[here])
    return Draws(epoch, position, visit)


def rank_slice(global_batch: int, *, rank: int, world_size: int) -> slice:
    """One rank's rows of the global batch. Raises BadOrder if it cannot be divided equally."""
    if global_batch % world_size:
        raise BadOrder(f"global batch {global_batch} is not a multiple of {world_size} workers")
    rows = global_batch // world_size
    return slice(rank * rows, (rank + 1) * rows)


def epoch_draws(spec: OrderSpec, epoch: int, slot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Samples at some slots of an epoch: slot int64 [n] -> position, visit int64 [n]."""
    number = _shuffled(spec, epoch, slot)
    if spec.balanced is None:
        return number, np.full_like(number, epoch)
    return spec.balanced.draws(epoch, number)


def _shuffled(spec: OrderSpec, epoch: int, slot: np.ndarray) -> np.ndarray:
    """Numbers at some slots of a shuffled epoch: slot int64 [n] -> int64 [n], in [0, N).

    All runs have `run_samples` positions except the last one of the split, which has the
    remainder; the slots after it move up, wherever the permutation put it.
    """
    size = spec.run_samples
    runs = -(-spec.samples // size)
    shuffle = Permutation(runs, f"{spec.digest}/{spec.seed}/{epoch}/{size}")
    missing = runs * size - spec.samples  # samples that the last run has less than a full one
    short_place = int(shuffle.inverse(np.array([runs - 1]))[0])
    short_end = (short_place + 1) * size - missing
    slot = np.where(slot >= short_end, slot + missing, slot)
    place, offset = np.divmod(slot, size)
    return shuffle.forward(place) * size + offset


def replacement(spec: OrderSpec, visit: int, position: int, attempt: int) -> int:
    """The sample to use in place of a bad one, at the `attempt`-th try, counted from 1.

    It follows a cycle through the samples of all classes, which (digest, seed, visit) determine.
    Like the order itself it depends on nothing else, and every other sample is tried in the end.
    """
    cycle = Permutation(spec.samples, f"{spec.digest}/{spec.seed}/{visit}/replacement")
    place = (cycle.inverse(np.array([position])) + attempt) % spec.samples
    return int(cycle.forward(place)[0])
