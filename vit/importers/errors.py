"""The error for unusable checkpoints, a class of its own so that callers can catch it."""

from collections.abc import Sequence

from vit.errors import BadModel


class BadCheckpoint(BadModel):
    """The checkpoint cannot be used. The message names the file, the reason and what to do."""


def first_three(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
