"""`pack.py tar`, `pack.py mix` and `pack.py verify`: tars that exist already."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipelines.packing.progress import PackingProgress, verified
from pipelines.packing.ray_tasks import on_ray
from pipelines.packing.resizing import Resizing
from pipelines.packing.shards import require_shard_size, write_shards
from pipelines.recipes.errors import Mistake
from storage.dataset import Dataset, load_dataset
from storage.decode import MAX_PIXELS
from storage.pack.execute import in_threads
from storage.pack.labels import read_classes
from storage.pack.mix import mix_datasets
from storage.pack.packed import Packed
from storage.pack.shrink import resized_by
from storage.pack.stored import Rule
from storage.pack.tars import index_tars


@dataclass(frozen=True, kw_only=True)
class IndexTars(Resizing):
    """Existing WebDataset tars: indexed in place, without rewriting them.

    With --shorter-side and --resized-to they are also packed again with smaller images.
    """

    out: str
    """Folder of the tars, where the manifest goes too: a directory or s3://bucket/prefix."""
    train: tuple[str, ...] = ("train-*.tar",)
    """Names of the training tars: shell patterns, or ranges such as train-{0000..1023}.tar."""
    val: tuple[str, ...] = ("val-*.tar",)
    """Names of the validation tars: shell patterns or ranges."""
    index: str | None = None
    """Folder for manifest and index, if the folder of the tars is read-only."""
    classes: Path | None = None
    """Text file with one class name per line, in the order of the class numbers."""
    label_key: str | None = None
    """Extension or JSON field that holds the label: `id` for KEY.id or {"id": 3}. Default: cls,
    label or class."""
    image_key: str | None = None
    """Extension of the image, if a sample has several: `left.jpg` for KEY.left.jpg."""
    max_pixels: int = MAX_PIXELS
    """Leave out images with more pixels than this."""
    resized_to: str | None = None
    """Where the dataset of smaller images goes, with --shorter-side: a directory or
    s3://bucket/prefix."""
    shard_mebibytes: int = 256
    """Approximate size of a shard of smaller images in MiB."""
    force: bool = False
    """Replace an existing index."""
    verify: bool = False
    """Afterwards read everything again and compare it with the manifest."""

    def __post_init__(self) -> None:
        require_shard_size(self.shard_mebibytes)
        if (self.shorter_side is None) != (self.resized_to is None):
            raise Mistake(
                "pack.py tar leaves tars as they are; for a copy with smaller images say both "
                "--shorter-side PIXELS and --resized-to PLACE"
            )

    def run(self) -> Dataset:
        """Read every tar once and write manifest and index; with --resized-to pack them again."""
        how = resized_by(self.shorter_side, self.quality)
        rule = Rule(max_pixels=self.max_pixels, resized=how)
        with PackingProgress("index") as progress:
            dataset = index_tars(
                self.out,
                {"train": self.train, "val": self.val},
                index=self.index,
                classes=None if self.classes is None else read_classes(str(self.classes)),
                label_key=self.label_key,
                image_key=self.image_key,
                max_pixels=rule.max_pixels,
                force=self.force,
                run=partial(on_ray, otherwise=in_threads),
                progress=progress,
            )
        if self.resized_to is not None:
            dataset = write_shards(
                Packed(dataset, rule=rule),
                self.resized_to,
                mebibytes=self.shard_mebibytes,
                force=self.force,
            )
        return verified(dataset) if self.verify else dataset


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Several packed datasets as one, by an index over their tars, which stay where they are.

    Classes of the same name become one class.
    """

    of: tuple[str, ...]
    """The packed datasets, at least two: directories, or s3://bucket/prefix."""
    out: str
    """Where the manifest and index of the mixture go: a directory or s3://bucket/prefix."""
    force: bool = False
    """Replace another mixture."""

    def run(self) -> Dataset:
        """Write manifest and index."""
        return mix_datasets(self.of, self.out, force=self.force)


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Read a packed dataset and list every shard and sample that does not match its manifest."""

    out: str
    """The dataset: a directory or s3://bucket/prefix."""

    def run(self) -> Dataset:
        """Check every shard. Raises BadDataset, listing all problems."""
        return verified(load_dataset(self.out))
