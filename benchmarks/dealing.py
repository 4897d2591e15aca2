"""How many blocks a second one process deals to ranks, and what that means for many GPUs.

    python -m benchmarks.dealing                            measures, then computes for 64 x 8 GPUs
    python -m benchmarks.dealing --nodes 8 --rate 2800

Blocks are made without decoding, so that only what moves them is measured: `streaming_split`'s
coordinator, the consumers and Ray's own processes, by their processor time. The cost of a block is
the difference of a long and a short run, which leaves out what starting costs. A block has the rows
of a rank's batch; one of 1 px shows the calls alone. One coordinator serves all ranks of a stage,
so it is the first thing that does not grow with the cluster.
"""

import argparse
import time
from typing import Any

import numpy as np
import psutil
import ray

from pipelines.cli.ray_session import ray_session
from storage.tasks import Ahead, blocks_in_order

GBIT = 1e9 / 8
KINDS = ("SplitCoordinator", "Consumer", "raylet", "gcs_server")
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


def seconds_by_kind() -> dict[tuple[int, str], float]:
    """Processor seconds of the processes of Ray, by what they are."""
    found = {}
    for process in psutil.process_iter(["name", "cmdline"]):
        line = " ".join(process.info["cmdline"] or [process.info["name"] or ""])[:80]
        kind = next((kind for kind in KINDS if kind in line), None)
        if kind:
            times = process.cpu_times()
            found[process.pid, kind] = times.user + times.system
    return found


def run(side: int, rows: int, blocks: int, ranks: int) -> tuple[float, dict[str, float]]:
    """Blocks a second from the first one on, and processor seconds by kind of process."""
    data = blocks_in_order(Blocks(side, rows).block, blocks * ranks, 0.5, ahead=Ahead(2**10, 2**30))
    consumers = [Consumer.remote() for _ in range(ranks)]
    ray.get([each.__ray_ready__.remote() for each in consumers])  # type: ignore[attr-defined]
    splits = data.streaming_split(ranks, equal=True)
    before = seconds_by_kind()
    done: list[tuple[int, float]] = ray.get(
        [
            each.run.remote(split, rows)  # type: ignore[attr-defined]
            for each, split in zip(consumers, splits, strict=True)
        ]
    )
    spent: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    for key, seconds in seconds_by_kind().items():
        spent[key[1]] += seconds - before.get(key, 0.0)
    assert sum(taken for taken, _ in done) == blocks * ranks
    return sum(taken - 1 for taken, _ in done) / max(seconds for _, seconds in done), spent


def measure(side: int, rows: int, blocks: int, ranks: int) -> tuple[float, dict[str, float]]:
    """Blocks a second, and processor ms a block by kind of process."""
    _, short = run(side, rows, SHORT, ranks)
    rate, long = run(side, rows, blocks, ranks)
    more = (blocks - SHORT) * ranks
    return rate, {kind: (long[kind] - short[kind]) / more * 1e3 for kind in KINDS}


def simulate(arguments: argparse.Namespace, coordinator_ms: float) -> None:
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
        "coordinator, share of one CPU": f"{blocks * coordinator_ms / 1e3:.1f}",
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
    parser.add_argument("--ranks", type=int, default=2)
    arguments = parser.parse_args()
    with ray_session(verbose=False, num_cpus=2):
        run(1, arguments.rows, SHORT, arguments.ranks)  # imports, first workers
        coordinator = 0.0
        for side in (1, 224):
            rate, spent = measure(side, arguments.rows, arguments.blocks, arguments.ranks)
            shown = ", ".join(f"{kind} {ms:.1f}" for kind, ms in spent.items())
            print(f"{side} px: {rate:.0f} blocks/s; ms of processor time a block: {shown}")
            coordinator = spent["SplitCoordinator"]
    simulate(arguments, coordinator)


if __name__ == "__main__":
    main()
