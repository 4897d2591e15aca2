"""Options that several sources share: storing large images smaller."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Resizing:
    """Part of a command line."""

    shorter_side: int | None = None
    """Store images whose shorter side is longer than this as JPEGs of this shorter side, in pixels;
    others keep their bytes. Default: all keep their bytes."""
    quality: int | None = None
    """JPEG quality of resized images, 1 to 100. Default: 90."""
