"""How many blocks a second are dealt to ranks, and what that means for many GPUs.

    python -m benchmarks.dealing            measures one and two streams, computes for 64 x 8 GPUs
    python -m benchmarks.dealing --nodes 8 --rate 2800

Blocks are made without decoding, so that only what moves them is measured: `streaming_split`'s
coordinator, the consumers and Ray's own processes, by their processor time. The cost of a block is
the difference of a long and a short run, which leaves out what starting costs. A block has the rows
of a rank's batch; one of 1 px shows the calls alone. In a stage, up to four ranks share a stream
and its coordinator (`storage/dealing.py`).
"""

import argparse
import time
from typing import Any

import numpy as np
import ray

from benchmarks.usage import seconds_of_ray
from pipelines.cli.ray_session import ray_session
from storage.ahead import Ahead
from storage.tasks import blocks_in_order

GBIT = 1e9 / 8
KINDS = ("SplitCoordinator", "Consumer", "raylet", "gcs_server", "tasks")
Spent = dict[str, float]
"""Processor time by kind of process."""
SHORT = 20  # blocks a rank in the short run


class Blocks:
    """Makes empty blocks of some rows."""

    def __init__(self, side: int, rows: int) -> None:
        self.side, self.rows = side, rows

    def block(self, item: int) -> dict[str, np.ndarray]:
        names = ("label", "index", "visit", "quarantined", "requests", "bytes", "step")
        numbers = np.full(self.rows, item, dtype=np.int64)
        image = np.zeros((self.rows, self.side, self.side, 3), dtype=np.uint8)
        return {"image": image, **dict.fromkeys(names, numbers)}


@ray.remote(num_cpus=0)
class Consumer:
    """One rank: takes its blocks and does nothing with them."""

    def run(self, split: Any, rows: int) -> tuple[int, float]:
        first = 0.0
        taken = 0
        for _ in split.iter_batches(batch_size=rows, batch_format="numpy", prefetch_batches=2):
            first = first or time.perf_counter()
            taken += 1
        return taken, time.perf_counter() - first


def run(side: int, rows: int, blocks: int, streams: int, ranks: int) -> tuple[float, Spent]:
    """Blocks a second from the first one on, and processor seconds by kind of process."""
    consumers = [Consumer.remote() for _ in range(streams * ranks)]
    ray.get([each.__ray_ready__.remote() for each in consumers])  # type: ignore[attr-defined]
    block = Blocks(side, rows).block
    ahead = Ahead(rows * 3 * side**2, ranks, share=1 / streams)
    splits = [
        split
        for _ in range(streams)
        for split in blocks_in_order(block, blocks * ranks, 0.5, ahead=ahead).streaming_split(
            ranks, equal=True
        )
    ]
    before = seconds_of_ray()
    done: list[tuple[int, float]] = ray.get(
        [
            each.run.remote(split, rows)  # type: ignore[attr-defined]
            for each, split in zip(consumers, splits, strict=True)
        ]
    )
    spent: Spent = dict.fromkeys(KINDS, 0.0)
    for process, (line, seconds) in seconds_of_ray().items():
        kind = next((kind for kind in KINDS if kind in line[:80]), KINDS[-1])
        spent[kind] += seconds - before.get(process, ("", 0.0))[1]
    assert sum(taken for taken, _ in done) == blocks * ranks * streams
    return sum(taken - 1 for taken, _ in done) / max(seconds for _, seconds in done), spent


def measure(side: int, rows: int, blocks: int, streams: int, ranks: int) -> tuple[float, Spent]:
    """Blocks a second, and processor ms a block by kind of process."""
    _, short = run(side, rows, SHORT, streams, ranks)
    rate, long = run(side, rows, blocks, streams, ranks)
    more = (blocks - SHORT) * ranks * streams
    return rate, {kind: (long[kind] - short[kind]) / more * 1e3 for kind in KINDS}


def simulate(arguments: argparse.Namespace, coordinator_ms: float, gcs_ms: float) -> None:
    """What a stage of that many GPUs needs a second, by the costs of a block."""
    gpus = arguments.nodes * arguments.gpus
    images = gpus * arguments.rate
    blocks = images / arguments.rows
    pixels = arguments.rows * 224 * 224 * 3
    node = arguments.gpus * arguments.rate
    print(f"{arguments.nodes} nodes x {arguments.gpus} GPUs at {arguments.rate} img/s each")
    rows = {
        "images a second": f"{images:,}",
        "blocks a second, each one task and one hand-over": f"{blocks:,.0f}",
        "coordinators, in CPUs": f"{blocks * coordinator_ms / 1e3:.1f}",
        "a coordinator of four ranks, in CPUs": f"{blocks / gpus * 4 * coordinator_ms / 1e3:.2f}",
        "gcs_server, in CPUs": f"{blocks * gcs_ms / 1e3:.1f}",
        "GPUs that one coordinator can feed": f"{1e3 / coordinator_ms / blocks * gpus:,.0f}",
        "object store, GB/s a node": f"{blocks * pixels / arguments.nodes / 1e9:.2f}",
        "between nodes if decoded elsewhere, Gbit/s a node": (
            f"{node * pixels / arguments.rows / GBIT:.0f}"
        ),
        "JPEG bytes read, Gbit/s a node": f"{node * arguments.image_bytes / GBIT:.1f}",
        "CPUs that decode, a node": f"{node * arguments.decode_ms / 1e3:.0f}",
    }
    for name, value in rows.items():
        print(f"| {name} | {value} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--rate", type=int, default=2800, help="images a second of one GPU")
    parser.add_argument("--image-bytes", type=int, default=110_000, help="of a JPEG")
    parser.add_argument("--decode-ms", type=float, default=3.1, help="processor time an image")
    parser.add_argument("--blocks", type=int, default=400, help="blocks a rank")
    parser.add_argument("--rows", type=int, default=256, help="images in a block")
    parser.add_argument("--ranks", type=int, default=4, help="of one stream")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    size, spent = (arguments.rows, arguments.blocks), Spent()
    with ray_session(verbose=False, num_cpus=2):
        run(1, arguments.rows, SHORT, 1, arguments.ranks)  # imports, first workers
        for side in (1, 224):
            for streams in sorted(arguments.streams, reverse=True):
                rate, spent = measure(side, *size, streams, arguments.ranks)
                shown = ", ".join(f"{kind} {ms:.1f}" for kind, ms in spent.items())
                print(
                    f"{side} px, {streams} streams of {arguments.ranks} ranks: {rate:.0f} blocks/s"
                )
                print(f"    ms of processor time a block: {shown}")
    simulate(arguments, spent["SplitCoordinator"], spent["gcs_server"])


if __name__ == "__main__":
    main()
