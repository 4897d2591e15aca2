"""MNIST-like idx files, plain or gzipped: `train-images-idx3-ubyte[.gz]` and its three companions.

MNIST, Fashion-MNIST, KMNIST and EMNIST have this format; Debian's dataset-fashion-mnist installs
Fashion-MNIST into /usr/share/datasets/fashion-mnist. The files have a test half, which becomes
`val`.
"""

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from storage.errors import BadSource
from storage.pack.png import png
from storage.pack.source import Sample, Source, hash_of

FASHION = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
_HALVES = {"train": "train", "val": "t10k"}
_MAX_BYTES = 4 << 30


class Idx(Source):
    """A folder with the four idx files."""

    def __init__(self, folder: str | Path, *, classes: tuple[str, ...] | None = None) -> None:
        self._folder = Path(folder)
        if not self._folder.is_dir():
            raise BadSource(f"{folder} is not a folder with train-images-idx3-ubyte and companions")
        self._images = {name: self._read(half, "images", 3) for name, half in _HALVES.items()}
        self._labels = {name: self._read(half, "labels", 1) for name, half in _HALVES.items()}
        for name in _HALVES:
            images, labels = len(self._images[name]), len(self._labels[name])
            if images != labels or not images:
                raise BadSource(f"{folder}, half {name!r}: {images} images and {labels} labels")
        found = 1 + max(int(labels.max()) for labels in self._labels.values())
        if classes is not None and len(classes) < found:
            raise BadSource(
                f"{folder} has labels up to {found - 1}, but only {len(classes)} class names given"
            )
        if classes is None and "fashion" in str(folder).lower() and found == len(FASHION):
            classes = FASHION
        self._classes = classes or tuple(str(label) for label in range(found))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label."""
        return self._classes

    @property
    def splits(self) -> Mapping[str, int]:
        """Samples of train and val."""
        return {name: len(labels) for name, labels in self._labels.items()}

    def read(self, split: str, i: int) -> Sample:
        """One image, as PNG."""
        return Sample(
            key=f"{split}-{i:06d}",
            suffix="png",
            data=png(self._images[split][i]),
            label=int(self._labels[split][i]),
        )

    def identity(self) -> str:
        """Hash of pixels and labels."""
        return hash_of(*self._images.values(), *self._labels.values())

    def _read(self, half: str, what: str, dimensions: int) -> np.ndarray:
        """One idx file -> uint8 [n] or [n, H, W]."""
        stems = [f"{half}-{what}-idx{dimensions}-ubyte", f"{half}-{what}.idx{dimensions}-ubyte"]
        for path in [self._folder / f"{stem}{end}" for stem in stems for end in ("", ".gz")]:
            if path.is_file():
                return _parse(path, dimensions)
        raise BadSource(f"{self._folder} has no {stems[0]} (nor .gz)")


def _parse(path: Path, dimensions: int) -> np.ndarray:
    """Parse an idx file. Its header: 0, 0, type 8 (uint8), number of dimensions, then each
    dimension as big-endian uint32."""
    data = _bytes(path)
    header = 4 + 4 * dimensions
    if len(data) < header or data[:4] != bytes([0, 0, 8, dimensions]):
        raise BadSource(f"{path} is not an idx file of uint8 with {dimensions} dimensions")
    shape = tuple(int(n) for n in np.frombuffer(data[4:header], dtype=">u4"))
    wanted = int(np.prod(shape, dtype=np.int64))
    if len(data) - header != wanted:
        raise BadSource(
            f"{path} has {len(data) - header} values, but its header {shape} says {wanted}"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def _bytes(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            data = file.read(_MAX_BYTES + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise BadSource(f"{path} does not unpack: {error}") from None
    if len(data) > _MAX_BYTES:
        raise BadSource(f"{path} unpacks to more than {_MAX_BYTES} bytes")
    return data
