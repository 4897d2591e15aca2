"""Single values of config files, checked."""

from collections.abc import Mapping
from typing import Any

from vit.importers.errors import BadCheckpoint


def named(value: Any, known: Mapping[str, Any], what: str) -> Any:
    """What a name stands for. Raises BadCheckpoint for an unknown one."""
    if value not in known:
        raise BadCheckpoint(
            f"{what} {value!r} is not supported, wanted one of {', '.join(sorted(known))}"
        )
    return known[value]


def pair(size: Any) -> tuple[int, int] | None:
    """Height and width of a size that may be one number, or missing."""
    if not size:
        return None
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def floats(values: list[float] | None) -> tuple[float, ...] | None:
    """Numbers of a list that may be missing."""
    return None if values is None else tuple(float(value) for value in values)
