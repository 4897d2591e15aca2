"""Cost of planning and ordering as a dataset grows: seconds and MiB of driver and processes.

    python -m benchmarks.scale                          # 1e6 to 3e8 samples, 1,024 workers
    python -m benchmarks.scale --samples 1e6 1e7 --ray  # with what Ray does before the first block

The manifests and indexes are synthetic (10,000 samples a shard, class of a sample 0), the code that
reads them is the stream's own, each figure from a fresh process. An index is a sparse file: its
pages are mapped and counted like any, yet take no disk and are never read from one, so `cold` adds
what a disk of 3,000 random reads a second would take.

The driver and every decoding process open the stream once; a decoding process then plans a block at
a time. Trainers plan nothing, they get blocks. With --ray: the driver's plan of all epochs, and how
fast Ray deals blocks out that hold positions instead of images. `growth` is the exponent k of N^k
between the last two sizes: 0 does not grow, 1 grows as the data.
"""

import argparse
import hashlib
import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from storage.columns import StreamSpec, open_stream
from storage.dataset import Dataset, IndexFile, Shard, load_dataset, to_json
from storage.decode import Crop
from storage.index import INDEX_ROW
from storage.order import global_batch, rank_batch, steps_per_epoch
from storage.stream import ROWS_PER_BLOCK

SIZES = (1_000_000, 10_000_000, 100_000_000, 300_000_000)
WORKERS, BATCH, EPOCHS, CLASSES = 1024, 4096, 14, 18_291  # ViT-H/14 on JFT-300M
SHARD_SAMPLES = 10_000
DISK_READS_A_SECOND = 3_000  # gp3's baseline
MIB = 2**20


def make_dataset(folder: Path, samples: int) -> None:
    """A manifest of samples / 10,000 shards and an index whose rows are zero and take no disk."""
    name = "index-train.npy"
    index = np.lib.format.open_memmap(folder / name, mode="w+", dtype=INDEX_ROW, shape=(samples,))
    index.flush()
    shards = tuple(
        Shard(
            name=f"train-{i:06d}.tar",
            bytes=SHARD_SAMPLES * 110_000,
            samples=SHARD_SAMPLES,
            sha256=hashlib.sha256(str(i).encode()).hexdigest(),
        )
        for i in range(samples // SHARD_SAMPLES)
    )
    file = IndexFile(name=name, bytes=(folder / name).stat().st_size, sha256="0" * 64)
    dataset = Dataset(
        uri=str(folder),
        classes=tuple(f"class-{i}" for i in range(CLASSES)),
        splits={"train": shards},
        indexes={"train": file},
    )
    (folder / "dataset.json").write_bytes(to_json(dataset))


def spec_of(folder: Path) -> StreamSpec:
    return StreamSpec(
        dataset=str(folder),
        crop=Crop(image_size=224),
        global_batch=BATCH,
        tail="carry",
    )


def memory() -> dict[str, float]:
    """MiB of this process: its own, and of mapped files."""
    kib = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        kib[name] = float(value)
    return {
        "own": kib["Anonymous:"] / 1024,
        "mapped": (kib["Rss:"] - kib["Anonymous:"]) / 1024,
    }


def measure(folder: Path) -> dict[str, float]:
    """Everything that one process does, in order."""
    spec, figures, before = spec_of(folder), {}, memory()
    began = time.perf_counter()
    dataset = load_dataset(spec.dataset)
    figures["manifest s"] = time.perf_counter() - began
    figures["manifest MiB"] = memory()["own"] - before["own"]
    faults = _minor_faults()
    began = time.perf_counter()
    opened = open_stream(spec, dataset.digest)
    figures["open s"] = time.perf_counter() - began
    figures["open cold s"] = figures["open s"] + (_minor_faults() - faults) / DISK_READS_A_SECOND
    after = memory()
    figures["own MiB"] = after["own"] - before["own"]
    figures["mapped MiB"] = max(0.0, after["mapped"] - before["mapped"])
    figures["index on a node's disk MiB"] = dataset.indexes["train"].bytes / MIB
    last = EPOCHS * steps_per_epoch(opened.order) - 1
    block = max(1, ROWS_PER_BLOCK // (BATCH // WORKERS))
    began = time.perf_counter()
    for rank in range(WORKERS):
        rank_batch(opened.order, last, rank=rank, world_size=WORKERS)
    figures["rank's slice ms"] = (time.perf_counter() - began) / WORKERS * 1e3
    began = time.perf_counter()
    for step in range(last - block + 1, last + 1):
        rank_batch(opened.order, step, rank=7, world_size=WORKERS)
    figures["block's plan ms"] = (time.perf_counter() - began) * 1e3
    began = time.perf_counter()
    _, expected = global_batch(opened.order, last)
    figures["global batch ms"] = (time.perf_counter() - began) * 1e3
    parts = [rank_batch(opened.order, last, rank=r, world_size=WORKERS)[1] for r in range(WORKERS)]
    assert (np.concatenate(parts) == expected).all()
    assert len(np.unique(expected)) == BATCH
    return figures


@dataclass(frozen=True)
class PlanOnly:
    """A block of the stream with positions instead of pixels."""

    spec: StreamSpec
    digest: str
    steps_per_block: int

    def block(self, item: int) -> dict[str, np.ndarray]:
        group, rank = divmod(item, WORKERS)
        order = open_stream(self.spec, self.digest).order
        parts = [
            rank_batch(order, group * self.steps_per_block + i, rank=rank, world_size=WORKERS)[1]
            for i in range(self.steps_per_block)
        ]
        return {"index": np.concatenate(parts)}


def measure_ray(folder: Path) -> dict[str, float]:
    """What Ray Data does before the first block of all epochs comes out, and between blocks."""
    from pipelines.cli.ray_session import ray_session
    from storage.ahead import Ahead
    from storage.tasks import blocks_in_order

    spec = spec_of(folder)
    dataset = load_dataset(spec.dataset)
    steps_per_block = max(1, ROWS_PER_BLOCK // (BATCH // WORKERS))
    steps = EPOCHS * steps_per_epoch(open_stream(spec, dataset.digest).order)
    items = steps // steps_per_block * WORKERS
    plan = PlanOnly(spec, dataset.digest, steps_per_block)
    with ray_session(verbose=False, num_cpus=2):
        # import what tasks import, start what a first stream starts
        list(blocks_in_order(_nothing, 4, 0.5, ahead=Ahead(1)).iter_internal_ref_bundles())
        before, began = memory(), time.perf_counter()
        stream = blocks_in_order(plan.block, items, 0.5, ahead=Ahead(1))
        made = time.perf_counter() - began
        bundles = iter(stream.iter_internal_ref_bundles())
        first = next(bundles)
        to_first = time.perf_counter() - began
        indices = [_positions(first)]
        began = time.perf_counter()
        for _ in range(99):
            indices.append(_positions(next(bundles)))
        rest = time.perf_counter() - began
        after = memory()
    order = open_stream(spec, dataset.digest).order
    for rank, positions in enumerate(indices):  # rank after rank of the first steps
        assert (
            positions[: BATCH // WORKERS] == rank_batch(order, 0, rank=rank, world_size=WORKERS)[1]
        ).all()
    return {
        "blocks": float(items),
        "plan s": made,
        "to first block s": to_first,
        "blocks a second": 99 / rest,
        "driver MiB": after["own"] - before["own"],
    }


def _positions(bundle: Any) -> np.ndarray:
    """The one column of a bundle's one block."""
    import ray

    block: Any = ray.get(bundle.block_refs[0])
    return block["index"].to_numpy()


def _nothing(item: int) -> dict[str, np.ndarray]:
    return {"index": np.array([item])}


def _minor_faults() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def in_a_process(folder: Path, which: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.scale", "--in", str(folder), "--which", which]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{which} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def show(columns: dict[int, dict[str, float]]) -> None:
    """Print a markdown table: a row per figure, a column per size, and the growth."""
    sizes = sorted(columns)
    print("| | " + " | ".join(f"{size:,}" for size in sizes) + " | growth |")
    print("|---" * (len(sizes) + 2) + "|")
    for name in columns[sizes[0]]:
        values = [columns[size][name] for size in sizes]
        cells = " | ".join(f"{value:,.3g}" if value < 100 else f"{value:,.0f}" for value in values)
        print(f"| {name} | {cells} | {growth(sizes, values)} |")


def growth(sizes: list[int], values: list[float]) -> str:
    """Return the growth exponent between the last two sizes; 0 if values are too small."""
    if len(sizes) < 2 or min(values[-2:]) <= 0:
        return "0"
    return f"{math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2]):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=float, nargs="+", default=SIZES)
    parser.add_argument(
        "--rounds", type=int, default=3, help="processes per size; the median is reported"
    )
    parser.add_argument("--ray", action="store_true", help="also what Ray does with the plan")
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--which", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        print(json.dumps({"plan": measure, "ray": measure_ray}[options.which](options.folder)))
        return
    print(f"{WORKERS:,} workers, global batch {BATCH:,}, {EPOCHS} epochs\n")
    for which in ("plan", *(["ray"] if options.ray else [])):
        repeats = options.rounds if which == "plan" else 1
        columns = {}
        for size in sorted(int(size) for size in options.samples):
            with tempfile.TemporaryDirectory() as folder:
                make_dataset(Path(folder), size)
                rounds = [in_a_process(Path(folder), which) for _ in range(repeats)]
            columns[size] = {
                name: float(np.median([figures[name] for figures in rounds])) for name in rounds[0]
            }
        show(columns)
        print()


if __name__ == "__main__":
    main()
