"""How a dataset's large images were made smaller when they were packed.

It is part of dataset.json and of the digest: the same photographs from another library or at
another quality are another dataset.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from storage.json_values import object_of, text_of, whole_of


@dataclass(frozen=True, kw_only=True)
class Resized:
    """Images with a longer shorter side became JPEGs of this one; others kept their bytes."""

    shorter_side: int
    """Height or width in pixels, whichever is less."""
    quality: int
    """JPEG quality, 1 to 100."""
    filter: str
    """Filter of the resize."""
    library: str
    """Software that decoded, resized and encoded, with its version."""

    def __str__(self) -> str:
        return (
            f"shorter side {self.shorter_side}, quality {self.quality}, {self.filter},"
            f" {self.library}"
        )

    def applies(self, width: int, height: int) -> bool:
        """Whether an image of this size is made smaller."""
        return min(width, height) > self.shorter_side

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self | None:
        """Parse the field `resized` of a JSON object; None if it has none. Raises BadValue."""
        if content.get("resized") is None:
            return None
        found = object_of(content, "resized")
        return cls(
            shorter_side=whole_of(found, "shorter_side"),
            quality=whole_of(found, "quality"),
            filter=text_of(found, "filter"),
            library=text_of(found, "library"),
        )
