"""Write the shards of any source of images, with progress."""

from pipelines.packing.progress import PackingProgress
from pipelines.packing.ray_tasks import on_ray
from pipelines.recipes.errors import Mistake
from storage.dataset import Dataset
from storage.pack import pack
from storage.pack.source import Source


def require_shard_size(mebibytes: int) -> None:
    """Raise Mistake for a shard size below 1 MiB."""
    if mebibytes < 1:
        raise Mistake(f"--shard-mebibytes: wanted at least 1, found {mebibytes}")


def write_shards(source: Source, out: str, *, mebibytes: int, force: bool) -> Dataset:
    """Write shards, index and manifest to a place; return the dataset.

    Args:
        source: of the images.
        out: a directory or s3://bucket/prefix.
        mebibytes: approximate size of a shard.
        force: replace a dataset that is there.
    """
    with PackingProgress("pack") as progress:
        return pack(
            source, out, shard_bytes=mebibytes << 20, force=force, run=on_ray, progress=progress
        )
