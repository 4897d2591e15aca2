"""Options that several sources share: storing large images smaller, and the size of a shard."""

from dataclasses import dataclass

from pipelines.recipes.errors import Mistake


@dataclass(frozen=True, kw_only=True)
class Resizing:
    """Part of a command line."""

    shorter_side: int | None = None
    """Store images whose shorter side is longer than this as JPEGs of this shorter side, in pixels;
    others keep their bytes. Default: all keep their bytes."""
    quality: int | None = None
    """JPEG quality of resized images, 1 to 100. Default: 90."""


def require_shard_size(mebibytes: int) -> None:
    """Raise Mistake for a shard size below 1 MiB."""
    if mebibytes < 1:
        raise Mistake(f"--shard-mebibytes: wanted at least 1, found {mebibytes}")
