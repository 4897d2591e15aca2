"""Turn samples into the columns of a batch: read, check, decode, and quarantine bad samples.

A sample that cannot be used (damaged bytes, an image that does not decode) is quarantined: in
training its row holds another sample, which `order.replacement` chooses, and the column
`quarantined` holds its position. So batches and ranks stay aligned, and the replacement does not
depend on the number of workers. The consumer decides how many are too many.
"""

from dataclasses import dataclass
from dataclasses import replace as changed
from functools import lru_cache

import numpy as np

from storage.augment import NO_AUGMENTATION, AugmentConfig, augment_image, mix_draws
from storage.balance import Balance, Balanced
from storage.cache import Cache, CachedShards
from storage.dataset import Dataset, load_dataset
from storage.decode import Crop, decode
from storage.errors import BadDataset, BadImage, BadOrder, BadSample
from storage.index import SampleIndex, load_index
from storage.order import OrderSpec, Tail, natural_run, replacement
from storage.reader import Damaged, read_samples
from storage.selection import EVERYTHING, Selection
from storage.selection_cache import drawn, grouped, grouped_by_member
from storage.store import ObjectStore, RangeReader

Batch = dict[str, np.ndarray]
"""Columns of a batch, by name."""
_REPLACEMENTS = 32  # samples tried in place of a bad one before giving up on the dataset


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """Everything that the sequence of batches depends on."""

    dataset: str
    """URI of the dataset."""
    split: str = "train"
    """Split of the dataset."""
    selection: Selection = EVERYTHING
    """Samples of the split to use."""
    crop: Crop
    """Part of an image that becomes the sample."""
    augment: AugmentConfig = NO_AUGMENTATION
    """What is done to an image after the crop."""
    seed: int = 0
    """Seed of the order, of the crops and of the augmentation."""
    global_batch: int
    """Samples per step over all ranks."""
    tail: Tail = "drop"
    """Whether samples that do not fill an epoch's last batch are dropped or carried over."""
    balance: Balance = "none"
    """Share of each class in an epoch: its own, or balanced."""
    shares: tuple[float, ...] | None = None
    """Share of each dataset of a mixture in an epoch; None: as many as each has."""
    run_samples: int | None = None
    """Number of neighbours that are shuffled and read as one run; 1 is a full shuffle. If None,
    `natural_run` chooses it."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A stream opened in one process: mapped files, and the positions of a selection."""

    spec: StreamSpec
    store: ObjectStore
    shards: RangeReader
    """Source of samples: the store, or a cache in front of it."""
    index: SampleIndex
    order: OrderSpec
    positions: np.ndarray | None
    """Position in the split of each selected sample [N]; None if all are selected."""
    labels: np.ndarray
    """Label of each selected sample [N]."""

    @property
    def samples(self) -> int:
        """Number of samples in the split, or in the selection from it."""
        return self.order.samples


@lru_cache(maxsize=8)
def open_stream(spec: StreamSpec, digest: str, cache: Cache | None = None) -> Opened:
    """Open a stream, or return the one this process has open.

    Raises BadDataset if the dataset was replaced.
    """
    dataset = load_dataset(spec.dataset)
    if dataset.digest != digest:
        raise BadDataset(
            f"{dataset.uri} was replaced while it was in use: the run began with digest"
            f" {digest[:12]}, found {dataset.digest[:12]}"
        )
    index = load_index(dataset, spec.split)
    if spec.selection.everything:
        positions, labels = None, index.labels
    else:
        positions, labels = drawn(index, spec.selection, digest)
    order = OrderSpec(
        digest=digest,
        samples=len(labels),
        seed=spec.seed,
        global_batch=spec.global_batch,
        tail=spec.tail,
        run_samples=spec.run_samples or _run_samples(spec, labels),
        balanced=_balanced(spec, dataset, index, positions, labels),
    )
    store = dataset.shard_store()
    shards = {shard.name: shard for shard in index.shards}
    return Opened(
        spec=spec,
        store=store,
        shards=CachedShards(store, shards, cache) if cache else store,
        index=index,
        order=order,
        positions=positions,
        labels=labels,
    )


def order_of(spec: StreamSpec, dataset: Dataset | None = None) -> OrderSpec:
    """The order of a stream, as `order.steps_per_epoch` and `order.global_batch` need it."""
    opened = open_stream(spec, dataset.digest if dataset else load_dataset(spec.dataset).digest)
    return opened.order


def _run_samples(spec: StreamSpec, labels: np.ndarray) -> int:
    if spec.balance != "none" or spec.shares is not None:
        return 1
    return natural_run(labels, global_batch=spec.global_batch)


def _balanced(
    spec: StreamSpec,
    dataset: Dataset,
    index: SampleIndex,
    positions: np.ndarray | None,
    labels: np.ndarray,
) -> Balanced | None:
    digest, seed = dataset.digest, spec.seed
    if spec.shares is not None:
        members = dataset.mixed_from
        if len(spec.shares) != len(members):
            names = ", ".join(member.name for member in members) or "none: it is no mixture"
            raise BadOrder(
                f"data.shares {' '.join(f'{share:g}' for share in spec.shares)}: wanted one share"
                f" for each dataset of {dataset.uri} ({names})"
            )
        table = grouped_by_member(
            index, spec.selection, positions, members, digest=digest, seed=seed
        )
        return Balanced.of(table, spec.shares, samples=len(labels))
    if spec.balance == "none":
        return None
    table = grouped(index, spec.selection, labels, digest=digest, seed=seed)
    return Balanced.of(table, spec.balance, samples=len(labels))


def columns(opened: Opened, chosen: np.ndarray, visit: np.ndarray, *, replace: bool) -> Batch:
    """Read and decode: chosen int64 [n] (among the selected), visit int64 [n] -> columns of n rows.

    With `replace`, samples that cannot be used are replaced by others; without, their images are
    black and their label and index are -1.
    """
    rows, side = len(chosen), opened.spec.crop.image_size
    traffic = opened.store.traffic
    requests, read = traffic.requests, traffic.bytes
    image = np.zeros((rows, side, side, 3), dtype=np.uint8)
    used, quarantined = chosen.copy(), np.full(rows, -1, dtype=np.int64)
    missing = _fill(image, opened, used, visit, np.arange(rows))
    quarantined[missing] = _positions(opened, chosen[missing])
    attempt = 0
    while replace and len(missing):
        attempt += 1
        if attempt > _REPLACEMENTS:
            raise BadDataset(
                f"{opened.spec.dataset}: tried {_REPLACEMENTS} samples in place of a damaged one,"
                f" all damaged too; the last: {_problem(opened, int(used[missing[0]]))}"
            )
        for row in missing.tolist():
            used[row] = replacement(opened.order, int(visit[row]), int(chosen[row]), attempt)
        missing = _fill(image, opened, used, visit, missing)
    label, index = opened.labels[used].astype(np.int64), _positions(opened, used)
    label[missing], index[missing] = -1, -1
    cost = np.zeros((2, rows), dtype=np.int64)
    cost[:, :1] = [[traffic.requests - requests], [traffic.bytes - read]]
    found = {
        "image": image,
        "label": label,
        "index": index,
        "visit": visit,
        "quarantined": quarantined,
        "requests": cost[0],  # the first row has the total of all rows
        "bytes": cost[1],
    }
    spec = opened.spec
    if spec.augment.mixes:
        found["mix"] = mix_draws(spec.augment, seed=spec.seed, epoch=visit, index=index, side=side)
    return found


def describe(spec: StreamSpec, digest: str, position: int) -> BadSample | None:
    """The reason why the sample at a position of the split cannot be used; None if it can."""
    opened = open_stream(spec, digest)
    if opened.positions is not None:
        position = int(np.searchsorted(opened.positions, position))
    return _problem(opened, position)


def _positions(opened: Opened, chosen: np.ndarray) -> np.ndarray:
    """Positions in the split: int64 [n]."""
    position = chosen if opened.positions is None else opened.positions[chosen]
    return position.astype(np.int64)


def _fill(
    image: np.ndarray, opened: Opened, chosen: np.ndarray, visit: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Decode some rows of uint8 [n, H, W, 3]; return those that failed: int64 [m], sorted."""
    spec = opened.spec
    position = _positions(opened, chosen[rows])
    damaged: list[Damaged] = []
    bad: list[int] = []
    for raw in read_samples(opened.shards, opened.index, position, damaged=damaged):
        row = int(rows[raw.request])
        place = {"epoch": int(visit[row]), "index": int(position[raw.request])}
        try:
            pixels = decode(raw.data, spec.crop, seed=spec.seed, **place)
        except BadImage:
            bad.append(row)
            continue
        image[row] = augment_image(pixels, spec.augment, seed=spec.seed, **place)
    again = np.array(sorted(int(rows[one.request]) for one in damaged), dtype=np.int64)
    if len(again) and isinstance(opened.shards, CachedShards):  # ask the origin too
        for one in damaged:
            opened.shards.forget(one.error.shard)
        again = _fill(image, changed(opened, shards=opened.store), chosen, visit, again)
    return np.sort(np.concatenate([np.array(bad, dtype=np.int64), again]))


def _problem(opened: Opened, chosen: int) -> BadSample | None:
    """Read one sample again and return what is wrong with it, or None."""
    position = _positions(opened, np.array([chosen]))
    try:
        for raw in read_samples(opened.store, opened.index, position):
            try:
                decode(raw.data, opened.spec.crop, seed=0, epoch=0, index=0)
            except BadImage as error:
                return BadSample(raw.shard, raw.key, str(error))
    except BadSample as error:
        return error
    return None
