"""`pipelines/pack.py`: its command line, its progress and its last words."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import tyro

from pipelines.options import parse_quietly, program_name
from storage.errors import StorageError, Unavailable
from storage.pack import pack
from storage.pack.digits import Digits
from storage.pack.folder import Folder
from storage.pack.idx import Idx
from storage.pack.source import Source


@dataclass(frozen=True, kw_only=True)
class _Target:
    out: str
    """Where the dataset goes: a directory or s3://bucket/prefix."""
    shard_mebibytes: int = 256
    """Size of a shard at most."""
    force: bool = False
    """Replace another dataset that is there."""


@dataclass(frozen=True, kw_only=True)
class PackDigits(_Target):
    """scikit-learn's 1,797 handwritten digits (8 px, ten classes); needs no files."""

    out: str = "data/digits"
    """Where the dataset goes: a directory or s3://bucket/prefix."""

    def source(self) -> Source:
        """What is packed."""
        return Digits()


@dataclass(frozen=True, kw_only=True)
class PackIdx(_Target):
    """MNIST or Fashion-MNIST as published: a folder of four idx files, gzipped or not."""

    folder: Path
    """Folder with train-images-idx3-ubyte[.gz] and the other three."""

    def source(self) -> Source:
        """What is packed."""
        return Idx(self.folder)


@dataclass(frozen=True, kw_only=True)
class PackFolder(_Target):
    """A folder of JPEG or PNG files with a subfolder a class, as ImageNet is laid out."""

    folder: Path
    """Folder of class folders, or of train/ and val/ with class folders each."""
    validation_fraction: float = 0.1
    """Share of the images that becomes the validation split, where there is no val/."""

    def source(self) -> Source:
        """What is packed."""
        return Folder(self.folder, validation_fraction=self.validation_fraction)


Command = (
    Annotated[PackDigits, tyro.conf.subcommand("digits")]
    | Annotated[PackIdx, tyro.conf.subcommand("idx")]
    | Annotated[PackFolder, tyro.conf.subcommand("folder")]
)


def main(description: str) -> NoReturn:
    """Pack a dataset as the command line says; exit as `pipelines.run` does."""
    try:
        command = parse_quietly(
            program_name(),
            lambda: tyro.cli(Command, prog=program_name(), description=description),  # type: ignore[arg-type]  # a union is a type to tyro
        )
        dataset = pack(
            command.source(),
            command.out,
            shard_bytes=command.shard_mebibytes << 20,
            force=command.force,
            progress=_Counter(),
        )
    except Unavailable as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except (ValueError, StorageError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    counts = ", ".join(f"{dataset.samples(split)} {split}" for split in dataset.splits)
    print(f"{dataset.uri}: {counts}, {len(dataset.classes)} classes, digest {dataset.digest[:12]}")
    for what, reason in dataset.left_out:
        print(f"left out {what}: {reason}")
    sys.exit(0)


class _Counter:
    """A live count on a terminal; nothing in a log, where the last words are enough."""

    def __call__(self, split: str, done: int, total: int) -> None:
        if sys.stdout.isatty() and (done == total or done % 500 == 0):
            end = "\n" if done == total else ""
            print(f"\r\x1b[K{split}: {done}/{total}", end=end, flush=True)
