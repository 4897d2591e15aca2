"""Damage input files byte by byte and check that only the project's own errors are raised.

python -m benchmarks.fuzz --seconds 60        cases and escapes of each kind; exit code 1 if any
"""

import argparse
import io
import random
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from storage.dataset import MANIFEST, load_dataset
from storage.decode import Crop, decode, open_image, probe
from storage.errors import BadImage, StorageError
from storage.index import load_index
from storage.jpeg_header import plain_jpeg_size
from storage.pack import pack
from storage.pack.digits import Digits
from storage.pack.labels import Labels
from storage.pack.scan import ScanTar
from storage.pack.stored import Rule
from storage.reader import read_samples
from storage.tar import members
from vit.importers.source import read_source

Case = Callable[[random.Random, Path], None]


@dataclass(frozen=True)
class Escape:
    """A seed whose case raised what it should not."""

    kind: str
    seed: int
    error: str
    """Its class, and the line that raised it."""
    text: str


def damaged(data: bytes, draw: random.Random, *, head: int | None = None) -> bytes:
    """Some bytes changed, cut, doubled or moved; mostly within the first `head`."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        end = min(len(changed), head or len(changed)) if draw.random() < 0.9 else len(changed)
        if not end:
            break
        at = draw.randrange(end)
        how = draw.randrange(8)
        if how < 3:
            changed[at] ^= 1 << draw.randrange(8)
        elif how == 3:
            changed[at] = draw.choice((0, 1, 127, 128, 255, 32, 48, 57))
        elif how == 4:
            changed[at : at + 4] = draw.randbytes(4)
        elif how == 5:
            del changed[at : None if draw.random() < 0.3 else at + draw.randrange(1, 40)]
        elif how == 6:
            changed[at:at] = changed[at : at + draw.randrange(1, 600)]
        else:
            size = draw.randrange(1, 40)
            changed[at : at + size] = bytes([draw.choice((0, 255))]) * size
    return bytes(changed)


def _require_printable(error: Exception) -> None:
    if not str(error).isprintable():
        raise AssertionError(f"not fit for a terminal: {error!r}")


# tars


def tar_case(draw: random.Random, folder: Path) -> None:
    """Members of a tar, and all that an index makes of them."""
    data = damaged(draw.choice(_tars()), draw)
    if draw.random() < 0.7:
        data = _with_checksums(data)
    try:
        for member in members(io.BytesIO(data).read):
            assert member.refused or member.offset + len(member.data) <= len(data)
    except StorageError:
        pass
    if draw.random() < 0.02:
        (folder / "a.tar").write_bytes(data)
        rule = Labels(key=draw.choice((None, "label", "cls")))
        shard, why = ScanTar(uri=str(folder), parts=str(folder), labels=rule)("a.tar")
        assert why or shard.bytes == len(data)


def _with_checksums(data: bytes) -> bytes:
    """The same blocks; those that look like headers get the checksum that fits them."""
    blocks = bytearray(data)
    for at in range(0, len(blocks) - 511, 512):
        if blocks.startswith(b"ustar", at + 257):
            blocks[at + 148 : at + 156] = b" " * 8
            blocks[at + 148 : at + 156] = b"%06o\0 " % sum(blocks[at : at + 512])
    return bytes(blocks)


@cache
def _tars() -> list[bytes]:
    made = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for stem in ("a", "d/" * 60 + "e" * 50, "é" * 60):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w", format=kind, bufsize=512) as out:
                image = _encoded("JPEG")
                for end, data in ((".jpg", image), (".cls", b"3"), (".json", b'{"label": 1}')):
                    try:
                        info = tarfile.TarInfo(stem + end)
                        info.size = len(data)
                        out.addfile(info, io.BytesIO(data))
                    except ValueError:  # a name that USTAR cannot hold
                        break
            made.append(buffer.getvalue().rstrip(b"\0"))
    return [data + bytes(-len(data) % 512 + 1024) for data in made]


# images


def image_case(draw: random.Random, folder: Path) -> None:
    """An image, mostly with EXIF, through the packer's look and the stream's decoder."""
    intact, exif_end = draw.choice(_images())
    data = damaged(intact, draw, head=exif_end)
    try:
        header = probe(data)
        quick = plain_jpeg_size(data)
        if quick is not None:
            slow = open_image(data, max_pixels=1 << 30)
            assert quick == (slow.width, slow.height, slow.mode), "the quick look differs"
        assert header.width > 0 < header.height
    except BadImage:
        pass
    kind = draw.choice(("random", "simple", "center", "resize"))
    crop = Crop(image_size=16, kind=kind)  # pyright: ignore[reportArgumentType]  a literal
    try:
        pixels = decode(data, crop, seed=draw.randrange(9), epoch=0, index=draw.randrange(99))
        assert pixels.shape == (16, 16, 3)
    except BadImage as error:
        _require_printable(error)


def stored_case(draw: random.Random, folder: Path) -> None:
    """A file of a format that the packer converts."""
    try:
        stored = Rule(max_pixels=1 << 20, gray_bits=draw.choice((12, 16)))(
            damaged(draw.choice(_converted()), draw, head=400)
        )
        assert stored.suffix in ("jpg", "png", "webp")
    except BadImage as error:
        _require_printable(error)


@cache
def _pixels() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((40, 30))


def _encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    _pixels().save(buffer, format=kind, **options)
    return buffer.getvalue()


@cache
def _images() -> list[tuple[bytes, int]]:
    """Images, and up to where their headers go."""
    made = []
    for orientation in (1, 6, 8):
        exif = Image.Exif()
        exif.update({0x0112: orientation, 0x011A: 72.0, 0x0128: 2, 0x010F: "maker" * 9})
        exif.get_ifd(0x8769).update({0x9003: "2026:01:01 00:00:00", 0x829A: 0.01})
        for kind in ("JPEG", "PNG", "WEBP", "MPO"):
            more = {"save_all": True, "append_images": [_pixels()]} if kind == "MPO" else {}
            data = _encoded(kind, exif=exif.tobytes(), **more)
            made.append((data, len(data) if kind == "WEBP" else 700))
    made += [(_encoded("JPEG", **options), 700) for options in ({}, {"progressive": True})]
    gray = io.BytesIO()
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20)).save(gray, "PNG")
    return [*made, (gray.getvalue(), 100)]


@cache
def _converted() -> list[bytes]:
    made = [_encoded(kind) for kind in ("BMP", "GIF", "TIFF", "PPM", "AVIF")]
    made += [_encoded("TIFF", compression=how) for how in ("tiff_lzw", "jpeg", "tiff_deflate")]
    deep = io.BytesIO()
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20)).save(deep, "TIFF")
    return [*made, deep.getvalue(), *(data for data, _ in _images())]


# datasets


def manifest_case(draw: random.Random, folder: Path) -> None:
    """A damaged dataset.json beside sound shards."""
    _, files = _dataset()
    (folder / MANIFEST).write_bytes(damaged(files[MANIFEST], draw))
    with suppress(StorageError):
        load_dataset(str(folder))


def index_case(draw: random.Random, folder: Path) -> None:
    """A damaged index whose manifest was made to fit."""
    source, files = _dataset()
    name = "index-train.npy"
    data = damaged(files[name], draw, head=128)
    (folder / name).write_bytes(data)
    dataset = load_dataset(source)
    try:
        # length and checksum are checked before: here only what the file itself may hold
        indexes = dict(dataset.indexes)
        indexes["train"] = replace(indexes["train"], bytes=len(data), sha256=str(draw.random()))
        other = replace(dataset, uri=str(folder), indexes=indexes, shards_at=source)
        index = load_index(other, "train")
        some = np.array([draw.randrange(len(index)) for _ in range(3)])
        list(read_samples(other.shard_store(), index, some, damaged=[]))
    except StorageError:
        pass


@cache
def _dataset() -> tuple[str, dict[str, bytes]]:
    packed = Path(tempfile.mkdtemp(prefix="vit-on-ray-fuzz-")) / "digits"
    pack(Digits(), str(packed), shard_bytes=1 << 20)
    return str(packed), {
        path.name: path.read_bytes() for path in packed.iterdir() if path.suffix != ".tar"
    }


# checkpoints


def npz_case(draw: random.Random, folder: Path) -> None:
    """A damaged npz."""
    _read_source(folder / "a.npz", damaged(_npz(), draw))


def safetensors_case(draw: random.Random, folder: Path) -> None:
    """A damaged header of a safetensors file."""
    data = _safetensors()
    _read_source(folder / "a.safetensors", damaged(data, draw, head=len(data) - 100))


def _read_source(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        read_source(path)
    except UnicodeError:
        raise
    except ValueError:  # the importers' error for a file that is not a checkpoint
        pass


@cache
def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{"a/kernel": np.ones((4, 5), np.float32), "b": np.arange(6)})
    return buffer.getvalue()


@cache
def _safetensors() -> bytes:
    return save({"a.weight": torch.ones(4, 5), "b": torch.arange(6.0)}, {"format": "pt"})


KINDS: dict[str, Case] = {
    "tars": tar_case,
    "images": image_case,
    "converted": stored_case,
    "manifests": manifest_case,
    "indexes": index_case,
    "npz": npz_case,
    "safetensors": safetensors_case,
}
_SHARES = {"tars": 4.0, "images": 6.0}  # of the time; 1 for the others


def fuzz(
    kind: str, first_seed: int, *, cases: int, seconds: float = 1e9
) -> tuple[int, list[Escape]]:
    """Cases that were run, and those that raised what they should not. A case is its seed."""
    escapes: list[Escape] = []
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="vit-on-ray-fuzz-") as folder:
        for seed in range(first_seed, first_seed + cases):
            if time.monotonic() > until:
                return seed - first_seed, escapes
            try:
                KINDS[kind](random.Random(seed), Path(folder))
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                line = f"{Path(where.filename).name}:{where.lineno}"
                escapes.append(Escape(kind, seed, f"{type(error).__name__} at {line}", str(error)))
    return cases, escapes


def main() -> None:
    """Run every kind for its share of the time, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    shares = {kind: _SHARES.get(kind, 1.0) for kind in options.kinds}
    escapes: list[Escape] = []
    for kind, share in shares.items():
        seconds = options.seconds * share / sum(shares.values())
        cases, new = fuzz(kind, options.first_seed, cases=1 << 62, seconds=seconds)
        escapes += new
        print(f"{kind:12} {cases:9} cases  {len(new)} escapes  {seconds:.0f} s", flush=True)
    for kind, error in sorted({(escape.kind, escape.error) for escape in escapes}):
        alike = [escape for escape in escapes if (escape.kind, escape.error) == (kind, error)]
        print(f"{kind}: {len(alike)} x {error}, first seed {alike[0].seed}: {alike[0].text[:200]}")
    sys.exit(1 if escapes else 0)


if __name__ == "__main__":
    main()
