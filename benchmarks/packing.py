"""Index tars that exist already (`pack.py tar`), beside copying them and webdataset's ShardWriter.

    python -m benchmarks.packing        a table for samples of 3.6 kB and of 100 kB

    read, hash   read the tar, sha256 of all of it and crc32 of each image: what an index needs
    copy         read the tar, write its bytes to another file
    ShardWriter  read each image from memory, write them as a tar of the same samples
    index        `ScanTar`: all headers, checks, image headers, labels, checksums; writes the rows

Each round runs all of them in turn on the same bytes, in the page cache, in one process. MiB are
those of the tar; the ratio is taken within a round.
"""

import argparse
import hashlib
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from statistics import median

from webdataset.writer import ShardWriter

from benchmarks.photographs import photograph
from storage.pack.scan import ScanTar
from storage.tar import members

NAME = "train-000000.tar"
CASES = {"3.6 kB": (80, 64, 20_000), "100 kB": (520, 400, 800)}  # width, height, samples
DISTINCT = 64  # photographs, which repeat under other names


def write(folder: Path, pictures: list[bytes], samples: int) -> Path:
    folder.mkdir()
    pattern = str(folder / "train-%06d.tar")
    with ShardWriter(
        pattern, maxcount=samples, maxsize=2**40, mtime=0, encoder=False, verbose=0
    ) as out:
        for i in range(samples):
            label = str(i % 10).encode()
            out.write({"__key__": f"{i:08d}", "cls": label, "jpg": pictures[i % DISTINCT]})
    return folder / NAME


def checksums(tar: Path) -> None:
    whole, images = hashlib.sha256(), 0
    with open(tar, "rb") as file:
        while chunk := file.read(8 << 20):
            whole.update(chunk)
            images = zlib.crc32(chunk, images)


def copy(tar: Path, target: Path) -> None:
    with open(tar, "rb") as source, open(target, "wb") as out:
        while chunk := source.read(8 << 20):
            out.write(chunk)


def index(folder: Path, parts: Path, samples: int) -> None:
    shard, why = ScanTar(uri=str(folder), parts=str(parts))(NAME)
    assert why is None
    assert shard.samples == samples


def measure(case: str, rounds: int) -> None:
    width, height, samples = CASES[case]
    pictures = [photograph(i, width, height) for i in range(DISTINCT)]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        tar = write(root / "tars", pictures, samples)
        (root / "parts").mkdir()
        number = iter(range(1000))
        contenders: dict[str, Callable[[], object]] = {
            "read, hash": lambda: checksums(tar),
            "copy": lambda: copy(tar, root / "copy"),
            "ShardWriter": lambda: write(root / f"again{next(number)}", pictures, samples),
            "index": lambda: index(tar.parent, root / "parts", samples),
        }
        with open(tar, "rb") as file:
            assert sum(1 for _ in members(file.read)) == 2 * samples
        mebibytes = tar.stat().st_size / 2**20
        cpu: dict[str, list[float]] = {name: [] for name in contenders}
        wall: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, run in contenders.items():
                started, spent = time.perf_counter(), time.process_time()
                run()
                cpu[name].append(time.process_time() - spent)
                wall[name].append(time.perf_counter() - started)
            for old in root.glob("again*/*"):
                old.unlink()
    mean = sum(map(len, pictures)) / DISTINCT / 1000
    print(f"\n{samples} images of {mean:.1f} kB, a tar of {mebibytes:.0f} MiB, {rounds} rounds")
    print(f"{'':<12}{'CPU MiB/s, median (best)':>26}{'wall MiB/s':>18}{'index / this, CPU':>22}")
    for name in contenders:
        ratios = sorted(other / own for other, own in zip(cpu[name], cpu["index"], strict=True))
        shown = f"{median(ratios):.2f}x ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        print(
            f"{name:<12}"
            f"{mebibytes / median(cpu[name]):>17.0f} ({mebibytes / min(cpu[name]):.0f})"
            f"{mebibytes / median(wall[name]):>12.0f} ({mebibytes / min(wall[name]):.0f})"
            f"{shown if name != 'index' else '':>24}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    for case in CASES:
        measure(case, rounds)


if __name__ == "__main__":
    main()
