"""CIFAR-10 and CIFAR-100 in their binary version (cs.toronto.edu/~kriz/cifar.html), folder or
.tar.gz.

The python version of these archives is pickled, and unpickling runs code: it is refused.
A record is one label byte (CIFAR-100: coarse, then fine) and 3,072 pixels, red, green, blue planes.
"""

import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from storage.errors import BadSource
from storage.pack.png import png
from storage.pack.source import Sample, Source, hash_of

_PIXELS = 3 * 32 * 32
_MAX_BYTES = 256 << 20
_TRAIN_10 = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
_LAYOUTS = {
    # marker file: (label bytes, train, val)
    "batches.meta.txt": (1, _TRAIN_10, ("test_batch.bin",)),
    "fine_label_names.txt": (2, ("train.bin",), ("test.bin",)),
}
_PICKLED = ("data_batch_1", "batches.meta", "meta", "train")


class Cifar(Source):
    """The files of the binary version; the last label byte is the class."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        files = _files(self._path)
        marker = next((name for name in _LAYOUTS if name in files), None)
        if marker is None:
            pickled = any(name in files for name in _PICKLED)
            raise BadSource(
                f"{path} is the pickled python version, and unpickling runs code: get the binary "
                "one"
                if pickled
                else f"{path} is not CIFAR's binary version: wanted {' or '.join(_LAYOUTS)} in it"
            )
        label_bytes, *halves = _LAYOUTS[marker]
        self._classes = tuple(files[marker].decode("ascii").split())
        self._records = {
            split: self._read(files, names, label_bytes)
            for split, names in zip(("train", "val"), halves, strict=True)
        }
        self._label_bytes = label_bytes

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label."""
        return self._classes

    @property
    def splits(self) -> Mapping[str, int]:
        """Samples of train and val."""
        return {split: len(records) for split, records in self._records.items()}

    def read(self, split: str, i: int) -> Sample:
        """One image, as PNG."""
        record = self._records[split][i]
        pixels = record[self._label_bytes :].reshape(3, 32, 32).transpose(1, 2, 0)
        return Sample(
            key=f"{split}-{i:05d}",
            suffix="png",
            data=png(np.ascontiguousarray(pixels)),
            label=int(record[self._label_bytes - 1]),
        )

    def identity(self) -> str:
        """Hash of all records."""
        return hash_of(*self._records.values())

    def _read(
        self, files: Mapping[str, bytes], names: tuple[str, ...], label_bytes: int
    ) -> np.ndarray:
        """Records of some files: uint8 [N, label_bytes + 3072]."""
        parts: list[np.ndarray] = []
        for name in names:
            data = files.get(name)
            if data is None:
                raise BadSource(f"{self._path} lacks {name}")
            if not data or len(data) % (label_bytes + _PIXELS):
                raise BadSource(
                    f"{name} in {self._path} is incomplete: {len(data)} bytes are not a multiple "
                    f"of {label_bytes + _PIXELS}, the size of a record"
                )
            parts.append(np.frombuffer(data, np.uint8).reshape(-1, label_bytes + _PIXELS))
        return np.concatenate(parts)


def _files(path: Path) -> dict[str, bytes]:
    """Read a folder or an archive: file name -> bytes. Nothing is extracted to disk."""
    if path.is_dir():
        tops = [path, *(child for child in sorted(path.iterdir()) if child.is_dir())]
        return {
            file.name: file.read_bytes()
            for top in reversed(tops)
            for file in sorted(top.iterdir())
            if file.is_file() and file.stat().st_size <= _MAX_BYTES
        }
    if not path.is_file():
        raise BadSource(f"{path} is neither a folder nor an archive")
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                if member.isreg() and member.size <= _MAX_BYTES:
                    content = archive.extractfile(member)
                    assert content is not None
                    found[member.name.rpartition("/")[2]] = content.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise BadSource(f"{path} does not unpack: {error}") from None
    return found
