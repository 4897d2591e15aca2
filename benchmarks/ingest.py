"""Images a second out of the stream, against the loaders its users have today.

    python -m benchmarks.ingest                                  generated photographs, local disk
    python -m benchmarks.ingest --shards 'DIR/train-*.tar'       any WebDataset tars
    python -m benchmarks.ingest --s3                             the same from a real S3 server
    python -m benchmarks.ingest --only stream limit --rounds 3

Contenders, all with `--cpus` processes that decode, the same crops of the same images:

    stream       storage.stream: the order guaranteed, resumable at any step
    webdataset   webdataset + torch DataLoader with our decode
    pillow       webdataset + torch DataLoader, Pillow's whole decode, as its users have it
    ray          ray.data.read_webdataset + map_batches with our decode
    energon      NVIDIA's Megatron-Energon on the same tars, with our decode
    spdl         SPDL's pipeline with our decode in threads
    limit        our decode alone, in processes, of bytes that lie in memory

The last two before the limit are no dependencies: `benchmarks/peers.py` says how to install them.
One that is not installed is printed as such.

The rounds go round the contenders, and each round starts with another one. The steady rate is the
slope over 30 to 85 % of a round's images; a rate from the first batch would flatter slow starters.
The rate end to end counts the start too. Ray is started once and warmed; a contender's own
processes are counted from its start. Processor time is that of all its processes, memory their
proportional set size after the last batch.

It fails if a contender was faster than the limit: then the measurement is wrong.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks import peers
from benchmarks.loaders import CONTENDERS, Source
from benchmarks.photographs import write_shards
from benchmarks.usage import Usage
from cluster.local.s3 import running_s3
from pipelines.cli.ray_session import ray_session
from storage.objects import open_store
from storage.pack.tars import index_tars

ALL: dict[str, Callable[[Source], Iterator[int]]] = {
    **{name: run for name, run in CONTENDERS.items() if name != "limit"},
    "energon": peers.energon,
    "spdl": peers.spdl,
    "limit": CONTENDERS["limit"],
}


@dataclass(frozen=True)
class Measured:
    """One contender in one round."""

    rate: float
    """Images a second in the steady state."""
    whole_rate: float
    """Images a second from the start to the last batch."""
    first_seconds: float
    """From the start to the first batch."""
    cpu_ms: float
    """Processor time an image, all processes."""
    mebibytes: float


def measure(batches: Iterator[int], steps: int) -> Measured:
    """Consume a round; `batches` yields the rows of each of `steps` batches."""
    usage, memory = Usage(), 0
    began = time.perf_counter()
    moments: list[float] = []
    images: list[int] = []
    with usage:
        for rows in batches:
            moments.append(time.perf_counter() - began)
            images.append((images[-1] if images else 0) + rows)
            if len(images) == steps:
                memory = usage.proportional_bytes()
    low, high = (np.searchsorted(images, share * images[-1]) for share in (0.30, 0.85))
    slope = np.polyfit(moments[low : high + 1], images[low : high + 1], 1)[0]
    return Measured(
        rate=float(slope),
        whole_rate=images[-1] / moments[-1],
        first_seconds=moments[0],
        cpu_ms=usage.cpu_seconds / images[-1] * 1e3,
        mebibytes=memory / 2**20,
    )


@contextmanager
def prepared_source(arguments: argparse.Namespace) -> Iterator[Source]:
    """The tars, indexed where they lie: links on the disk, or copies on a server."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="ingest-")))
        if arguments.shards:
            pattern = Path(arguments.shards).absolute()
            tars = sorted(pattern.parent.glob(pattern.name))
            assert tars, f"no file matches {arguments.shards}"
            for number, tar in enumerate(tars):
                (folder / f"train-{number:06d}.tar").symlink_to(tar)
        else:
            write_shards(folder, images=arguments.images)
        uri = str(folder)
        if arguments.s3:
            server = stack.enter_context(running_s3())
            stack.enter_context(server.environment())
            uri = server.uri("ingest")
            for tar in sorted(folder.glob("*.tar")):
                open_store(uri).upload(tar.name, tar)
        index_tars(uri, {"train": ["train-*.tar"]})
        yield Source(
            uri=uri,
            batch=arguments.batch,
            steps=arguments.steps,
            image_size=arguments.image_size,
            cpus=arguments.cpus,
            run_samples=arguments.run_samples,
        )


def run(source: Source, names: list[str], rounds: int) -> dict[str, list[Measured]]:
    """All rounds; the first one warms up and does not count."""
    results: dict[str, list[Measured]] = {name: [] for name in names}
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            result = measure(ALL[name](source), source.steps)
            if number:
                results[name].append(result)
    return results


def report(results: dict[str, list[Measured]]) -> None:
    """Median (lowest to highest) of the rounds, and the ratio within each round."""
    print(
        f"{'':<11} {'img/s, steady':>22} {'end to end':>11} {'first batch s':>14}"
        f" {'CPU ms/img':>11} {'MiB':>6}  ratio of the steady rates"
    )
    own = [m.rate for m in results.get("stream", [])]
    for name, rounds in results.items():
        rates = [m.rate for m in rounds]
        spread = f"{statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})"
        ratio = ""
        if own and name != "stream":
            pairs = [mine / other for mine, other in zip(own, rates, strict=True)]
            ratio = (
                f"stream / {name} {statistics.median(pairs):.2f}x"
                f" ({min(pairs):.2f} to {max(pairs):.2f})"
            )
        first = statistics.median(m.first_seconds for m in rounds)
        cpu = statistics.median(m.cpu_ms for m in rounds)
        memory = statistics.median(m.mebibytes for m in rounds)
        whole = statistics.median(m.whole_rate for m in rounds)
        print(
            f"{name:<11} {spread:>22} {whole:>11.0f} {first:>14.2f} {cpu:>11.2f} {memory:>6.0f}"
            f"  {ratio}"
        )


def beyond_limit(results: dict[str, list[Measured]]) -> list[str]:
    """The contenders whose median rate is above that of decoding alone."""
    median = {name: statistics.median(m.rate for m in rounds) for name, rounds in results.items()}
    return [name for name, rate in median.items() if rate > median.get("limit", float("inf"))]


def add_source(parser: argparse.ArgumentParser, *, steps: int, batch: int, cpus: int) -> None:
    """The arguments of `prepared_source`, with a benchmark's own defaults."""
    parser.add_argument("--shards", help="shell pattern of tars; photographs are made without it")
    parser.add_argument("--images", type=int, default=512, help="how many photographs to make")
    parser.add_argument("--s3", action="store_true", help="read from an S3 server on loopback")
    parser.add_argument("--steps", type=int, default=steps, help="batches per round")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--cpus", type=int, default=cpus, help="processes that decode")
    parser.add_argument(
        "--run-samples", type=int, help="neighbours read together; 16 is what large sets get"
    )


def main() -> str | None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_source(parser, steps=60, batch=64, cpus=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=sorted(ALL), default=list(ALL))
    arguments = parser.parse_args()
    with prepared_source(arguments) as source, ray_session(verbose=False, num_cpus=arguments.cpus):
        print(
            f"{arguments.steps} batches of {arguments.batch} images, {arguments.image_size} px, "
            f"{arguments.cpus} CPUs, {'S3 on loopback' if arguments.s3 else 'local disk'}, "
            f"{arguments.rounds} rounds"
        )
        here = [name for name in arguments.only if peers.installed(name)]
        results = run(source, here, arguments.rounds)
        report(results)
        for name in arguments.only:
            if name not in here:
                print(f"{name:<11} not installed")
    wrong = beyond_limit(results)
    return f"faster than bare decoding, so measured wrongly: {', '.join(wrong)}" if wrong else None


if __name__ == "__main__":
    sys.exit(main())
