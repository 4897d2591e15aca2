"""The command line of `pipelines/pack.py`: a subcommand per source, which packs when it is run."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pipelines.packing.progress import verified
from pipelines.packing.resizing import Resizing
from pipelines.packing.shards import require_shard_size, write_shards
from pipelines.packing.tars import IndexTars, Mix, Verify
from storage.dataset import Dataset
from storage.decode import MAX_PIXELS
from storage.pack.cifar import Cifar
from storage.pack.digits import Digits
from storage.pack.folder import Folder
from storage.pack.hf import HuggingFace
from storage.pack.idx import Idx
from storage.pack.imagenet import ImageNet
from storage.pack.label_table import Columns
from storage.pack.shrink import resized_by
from storage.pack.source import Source
from storage.pack.stored import Rule
from storage.pack.table import Table


@dataclass(frozen=True, kw_only=True)
class _Target(ABC):
    out: str
    """Where the dataset goes: a directory or s3://bucket/prefix."""
    shard_mebibytes: int = 256
    """Approximate size of a shard in MiB."""
    force: bool = False
    """Replace an existing dataset."""
    verify: bool = False
    """Afterwards read everything again and compare it with the manifest."""

    def __post_init__(self) -> None:
        require_shard_size(self.shard_mebibytes)

    @abstractmethod
    def source(self) -> Source:
        """Return the source of the images."""

    def run(self) -> Dataset:
        """Write shards, index and manifest; return the dataset."""
        dataset = write_shards(
            self.source(), self.out, mebibytes=self.shard_mebibytes, force=self.force
        )
        return verified(dataset) if self.verify else dataset


@dataclass(frozen=True, kw_only=True)
class _Files(_Target, Resizing):
    max_pixels: int = MAX_PIXELS
    """Leave out images with more pixels than this."""
    gray_bits: int = 16
    """Significant bits of 16-bit greyscale images: 12 if values go up to 4095."""

    @property
    def rule(self) -> Rule:
        """Return the rule by which images are stored."""
        return Rule(
            max_pixels=self.max_pixels,
            gray_bits=self.gray_bits,
            resized=resized_by(self.shorter_side, self.quality),
        )


@dataclass(frozen=True, kw_only=True)
class PackDigits(_Target):
    """scikit-learn's 1,797 handwritten digits (8 px, ten classes); needs no files."""

    out: str = "data/digits"
    """Where the dataset goes: a directory or s3://bucket/prefix."""

    def source(self) -> Source:
        """Return the source of the images."""
        return Digits()


@dataclass(frozen=True, kw_only=True)
class PackIdx(_Target):
    """MNIST or Fashion-MNIST as published: a folder of four idx files, gzipped or not."""

    folder: Path
    """Folder with train-images-idx3-ubyte[.gz] and the other three files."""

    def source(self) -> Source:
        """Return the source of the images."""
        return Idx(self.folder)


@dataclass(frozen=True, kw_only=True)
class PackFolder(_Files):
    """A folder of images with a subfolder per class, as ImageNet is laid out.

    JPEG, PNG and WebP are stored as they are; BMP, TIFF, GIF, AVIF and PPM become lossless PNG.
    """

    folder: Path
    """Folder of class folders, or of train/, val/ and test/ (or training/, valid/, ...) that each
    hold class folders."""
    validation_fraction: float | None = None
    """Fraction of the training images that becomes the validation split. Default: val/ or test/ is
    the validation split; without either, 0.1."""
    class_level: int | None = None
    """Depth of the class folders; folders of the same name are one class. Default: 1; each
    class folder must itself contain an image."""

    def source(self) -> Source:
        """Return the source of the images."""
        return Folder(
            self.folder,
            validation_fraction=self.validation_fraction,
            class_level=self.class_level,
            rule=self.rule,
        )


@dataclass(frozen=True, kw_only=True)
class PackTable(_Files):
    """A folder of images whose classes are in a CSV file, one class per image.

    Its first line names the columns. Images keep their bytes, as with `folder`.
    """

    table: Path
    """CSV file with a column for the file (`file`, `image`, `id`, ...; `.jpg` may be left out), one
    for its class (`label`, `class`, ...) and, if any, one for its split (`split`)."""
    folder: Path
    """Folder that the files of the table lie in."""
    val_table: Path | None = None
    """CSV file of the validation images, if they are in one of their own."""
    file_column: str | None = None
    """Column of the file, if it has an unusual name."""
    label_column: str | None = None
    """Column of the class, if it has an unusual name."""
    split_column: str | None = None
    """Column of the split (train, val, test), if it has an unusual name."""
    validation_fraction: float | None = None
    """Fraction of the training images that becomes the validation split. Default: the rows of val
    or test are the validation split; without either, 0.1."""

    def source(self) -> Source:
        """Return the source of the images."""
        return Table(
            self.table,
            self.folder,
            val_table=self.val_table,
            columns=Columns(
                file=self.file_column, label=self.label_column, split=self.split_column
            ),
            validation_fraction=self.validation_fraction,
            rule=self.rule,
        )


@dataclass(frozen=True, kw_only=True)
class PackCifar(_Target):
    """CIFAR-10 or CIFAR-100: the official binary archive (the pickled one is refused)."""

    path: Path
    """cifar-10-binary.tar.gz or cifar-100-binary.tar.gz, or the folder it unpacks to."""

    def source(self) -> Source:
        """Return the source of the images."""
        return Cifar(self.path)


@dataclass(frozen=True, kw_only=True)
class PackImageNet(_Files):
    """ImageNet from the official tars; nothing is unpacked to disk."""

    train_tar: Path
    """ILSVRC2012_img_train.tar, which holds one tar per class."""
    val_tar: Path
    """ILSVRC2012_img_val.tar."""
    val_labels: Path
    """Text file with the class of each validation image, one per line."""

    def source(self) -> Source:
        """Return the source of the images."""
        return ImageNet(self.train_tar, self.val_tar, self.val_labels, rule=self.rule)


@dataclass(frozen=True, kw_only=True)
class PackHuggingFace(_Files):
    """An image dataset from the Hugging Face Hub, as downloaded parquet files."""

    folder: Path
    """Folder with data/train-00000-of-00005.parquet, train/*.parquet or the like."""
    image_column: str | None = None
    """Column with the images. Default: the column whose feature is Image."""
    label_column: str | None = None
    """Column with class numbers or names. Default: the column whose feature is ClassLabel."""
    validation_fraction: float | None = None
    """Fraction of the training images that becomes the validation split. Default: validation or
    test files are the validation split; without either, 0.1."""

    def source(self) -> Source:
        """Return the source of the images."""
        return HuggingFace(
            self.folder,
            image_column=self.image_column,
            label_column=self.label_column,
            validation_fraction=self.validation_fraction,
            rule=self.rule,
        )


Command = (
    Annotated[PackDigits, tyro.conf.subcommand("digits")]
    | Annotated[PackIdx, tyro.conf.subcommand("idx")]
    | Annotated[PackFolder, tyro.conf.subcommand("folder")]
    | Annotated[PackTable, tyro.conf.subcommand("csv")]
    | Annotated[PackCifar, tyro.conf.subcommand("cifar")]
    | Annotated[PackImageNet, tyro.conf.subcommand("imagenet")]
    | Annotated[PackHuggingFace, tyro.conf.subcommand("hf")]
    | Annotated[IndexTars, tyro.conf.subcommand("tar")]
    | Annotated[Mix, tyro.conf.subcommand("mix")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
)
