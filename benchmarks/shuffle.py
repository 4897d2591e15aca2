"""How well an order mixes, and what its reads cost, beside a true permutation and shuffle buffers.

    python -m benchmarks.shuffle

1,281,167 samples of 1,000 classes and of photograph sizes, in shards of 256 MiB, that were shuffled
when they were packed, or left sorted by class. Of each order some hundred batches of 1,024 are
looked at:

    spread     chi-square of a batch's class counts over its expectation for a random draw: how much
               more batches differ from each other than those of a true permutation, which has 1
    together   share of a sample's batch that were its neighbours on disk, within 256
    requests   ranged reads a batch, as `storage.reader` cuts them; MiB are what they bring

`buffer` is webdataset's way: shards in random order, a buffer of samples that are drawn at random.
"""

from collections.abc import Callable, Iterator

import numpy as np

from storage.index import INDEX_ROW
from storage.order import OrderSpec, global_batch, natural_run
from storage.reader import ranges

SAMPLES, CLASSES, BATCH, BATCHES = 1_281_167, 1000, 1024, 200
SHARD_BYTES = 256 << 20
NEAR = 256


def index(*, sorted_by_class: bool) -> np.ndarray:
    """INDEX_ROW [N] of such a dataset."""
    random = np.random.default_rng(0)
    rows = np.zeros(SAMPLES, dtype=INDEX_ROW)
    rows["size"] = random.lognormal(np.log(100e3), 0.45, SAMPLES).astype(np.uint32)
    member = rows["size"].astype(np.int64) + 2048  # with headers, padding and the label
    start = np.cumsum(member) - member
    rows["shard"] = start // SHARD_BYTES
    rows["offset"] = start % SHARD_BYTES + 512
    label = np.arange(SAMPLES) * CLASSES // SAMPLES
    rows["label"] = label if sorted_by_class else random.permutation(label)
    return rows


def permutation(rows: np.ndarray) -> Iterator[np.ndarray]:
    order = np.random.default_rng(1).permutation(len(rows))
    for i in range(BATCHES):
        yield order[i * BATCH : (i + 1) * BATCH]


def runs(rows: np.ndarray, run: int) -> Iterator[np.ndarray]:
    order = OrderSpec(
        digest="shuffle", samples=len(rows), seed=1, global_batch=BATCH, run_samples=run
    )
    steps = np.random.default_rng(2).choice(SAMPLES // BATCH, BATCHES, replace=False)
    for step in steps.tolist():
        yield global_batch(order, step)[1]


def buffer(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Whole shards in random order through a buffer of `size` samples."""
    random = np.random.default_rng(3)
    starts = np.flatnonzero(np.r_[True, np.diff(rows["shard"]) != 0])
    stops = np.r_[starts[1:], len(rows)]
    stream = (
        position
        for shard in random.permutation(len(starts)).tolist()
        for position in range(starts[shard], stops[shard])
    )
    samples = [next(stream) for _ in range(size)]
    for _ in range(BATCHES):
        batch = np.empty(BATCH, dtype=np.int64)
        for row in range(BATCH):
            slot = int(random.integers(size))
            batch[row] = samples[slot]
            samples[slot] = next(stream)
        yield batch


def spread(rows: np.ndarray, batches: list[np.ndarray]) -> float:
    expected = np.bincount(rows["label"], minlength=CLASSES) * (BATCH / SAMPLES)  # [classes]
    scores = [
        float(np.sum((np.bincount(rows["label"][b], minlength=CLASSES) - expected) ** 2 / expected))
        for b in batches
    ]
    return float(np.mean(scores)) / ((CLASSES - 1) * (SAMPLES - BATCH) / (SAMPLES - 1))


def together(batches: list[np.ndarray]) -> float:
    shares = []
    for batch in batches:
        positions = np.sort(batch)
        near = np.searchsorted(positions, positions + NEAR, "right") - np.searchsorted(
            positions, positions - NEAR
        )
        shares.append(float(np.mean(near - 1)) / (BATCH - 1))
    return float(np.mean(shares))


def reads(rows: np.ndarray, batches: list[np.ndarray]) -> tuple[float, float]:
    """Requests a batch, and MiB."""
    requests, count = 0, 0
    for batch in batches:
        some = rows[batch]
        order = np.lexsort((some["offset"], some["shard"]))
        for group in ranges(some, order):
            requests += 1
            last = some[group[-1]]
            count += int(last["offset"]) + int(last["size"]) - int(some[group[0]]["offset"]) + 512
    return requests / len(batches), count / len(batches) / 2**20


def main() -> None:
    for name, sorted_by_class in (("shuffled when packed", False), ("sorted by class", True)):
        rows = index(sorted_by_class=sorted_by_class)
        chosen = natural_run(rows["label"], global_batch=BATCH)
        orders: dict[str, Callable[[], Iterator[np.ndarray]]] = {
            "true permutation": lambda rows=rows: permutation(rows)
        }
        for run in (1, 4, 16, 64):
            label = f"runs of {run}" + (" (default)" if run == chosen else "")
            orders[label] = lambda rows=rows, run=run: runs(rows, run)
        for size in (1000, 10_000):
            orders[f"buffer of {size:,}"] = lambda rows=rows, size=size: buffer(rows, size)
        print(f"\n{name}\n{'':<22}{'spread':>8}{'together':>10}{'requests':>10}{'MiB':>7}")
        for label, order in orders.items():
            batches = list(order())
            requests, mebibytes = reads(rows, batches)
            sequential = label.startswith("buffer")
            print(
                f"{label:<22}{spread(rows, batches):>8.2f}{together(batches):>10.4f}"
                + (f"{'whole shards':>17}" if sequential else f"{requests:>10.0f}{mebibytes:>7.0f}")
            )


if __name__ == "__main__":
    main()
