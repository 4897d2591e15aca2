"""What `pack.py --shorter-side` costs and gains on photographs of your own.

    python -m benchmarks.resizing --shards 'DIR/train-*.tar' --sides 256 384 --qualities 80 90

The first table: bytes an image, images a second that one thread decodes (random crops to 224 px as
in training), and how far evaluation's crop is from that of the original, in grey levels of 255. The
second: a folder of these photographs packed with the first side in one process and on Ray, both on
`--cpus` CPUs, in turn. Ray is running already; its start is not counted.
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from pipelines.cli.ray_session import ray_session
from pipelines.packing import ray_tasks
from storage.decode import Crop, decode
from storage.pack import pack
from storage.pack.execute import Run, in_turn
from storage.pack.folder import Folder
from storage.pack.shrink import resized_by
from storage.pack.stored import Rule
from storage.tar import members

CROP = Crop(image_size=224)
CENTER = Crop(image_size=224, kind="center")


def images(pattern: str) -> list[bytes]:
    """The JPEGs of some tars."""
    path = Path(pattern).absolute()
    found = list[bytes]()
    for tar in sorted(path.parent.glob(path.name)):
        with open(tar, "rb") as file:
            found += [each.data for each in members(file.read) if each.name.endswith(".jpg")]
    assert found, f"no .jpg in {pattern}"
    return found


def decoding_seconds(some: list[bytes]) -> float:
    """Processor time of decoding all, as in training."""
    began = time.process_time()
    for i, data in enumerate(some):
        decode(data, CROP, seed=0, epoch=0, index=i)
    return time.process_time() - began


def evaluated(some: list[bytes]) -> Iterator[np.ndarray]:
    """The crop of evaluation of each: int [224, 224, 3]."""
    return (decode(data, CENTER, seed=0, epoch=0, index=0).astype(int) for data in some)


def compare(originals: list[bytes], sides: list[int], qualities: list[int], rounds: int) -> None:
    sets = {"as they are": originals}
    for side in sides:
        for quality in qualities:
            rule = Rule(resized=resized_by(side, quality))
            sets[f"{side} px, quality {quality}"] = [rule(data).data for data in originals]
    seconds: dict[str, list[float]] = {name: [] for name in sets}
    for _ in range(rounds):
        for name, some in sets.items():
            seconds[name].append(decoding_seconds(some))
    print("| | kB an image | img/s of a thread | of the original's | mean difference | PSNR, dB |")
    print("|---" * 6 + "|")
    for name, some in sets.items():
        size = statistics.mean(map(len, some)) / 1000
        rate = len(some) / statistics.median(seconds[name])
        pairs = zip(seconds["as they are"], seconds[name], strict=True)
        gain = statistics.median(before / now for before, now in pairs)
        off = [a - b for a, b in zip(evaluated(originals), evaluated(some), strict=True)]
        mean = np.mean([np.abs(each).mean() for each in off])
        square = np.mean([(each**2).mean() for each in off])
        noise = f"{10 * np.log10(255**2 / square):.1f}" if square else "equal"
        print(f"| {name} | {size:.0f} | {rate:.0f} | {gain:.2f}x | {mean:.2f} | {noise} |")


def on_two_paths(originals: list[bytes], side: int, repeats: int, rounds: int) -> None:
    """Pack a folder in one process and on Ray."""
    ray_tasks.WORTH_RAY_BYTES = 0  # however little there is to do
    with TemporaryDirectory() as temporary:
        root = Path(temporary)
        for i in range(repeats * len(originals)):
            path = root / "in" / ("val" if i % 10 == 0 else "train") / f"{i % 7}" / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(originals[i % len(originals)])
        source = Folder(root / "in", rule=Rule(resized=resized_by(side, None)))
        paths: dict[str, Run] = {"one process": in_turn, "Ray": ray_tasks.on_ray}
        seconds: dict[str, list[float]] = {name: [] for name in paths}
        digests = set[str]()
        for number in range(rounds + 1):  # the first one warms up
            for name, run in paths.items():
                out = str(root / f"{name}-{number}")
                began = time.perf_counter()
                digests.add(pack(source, out, shard_bytes=4 << 20, run=run).digest)
                seconds[name].append(time.perf_counter() - began)
    assert len(digests) == 1, digests
    count = repeats * len(originals)
    ratios = [a / b for a, b in zip(*(each[1:] for each in seconds.values()), strict=True)]
    for name, each in seconds.items():
        print(f"{name}: {count / statistics.median(each[1:]):.0f} img/s of {count} images")
    print(f"Ray / one process: {statistics.median(ratios):.2f}x", end=" ")
    print(f"({min(ratios):.2f} to {max(ratios):.2f}), {rounds} rounds, the same digest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", required=True, help="shell pattern of tars")
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 384])
    parser.add_argument("--qualities", type=int, nargs="+", default=[80, 90])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=4, help="copies of each in the folder")
    parser.add_argument("--cpus", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    originals = images(arguments.shards)
    compare(originals, arguments.sides, arguments.qualities, arguments.rounds)
    print()
    timed = partial(on_two_paths, originals, arguments.sides[0], arguments.repeats)
    with ray_session(verbose=False, num_cpus=arguments.cpus):
        timed(arguments.rounds)


if __name__ == "__main__":
    main()
