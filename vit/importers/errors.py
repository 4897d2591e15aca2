"""The error for unusable checkpoints, a class of its own so that callers can catch it."""

from collections.abc import Callable, Sequence
from functools import wraps
from os import PathLike
from typing import Concatenate, ParamSpec, TypeVar

from vit.errors import BadModel

P = ParamSpec("P")
T = TypeVar("T")
Place = str | PathLike[str]


class BadCheckpoint(BadModel):
    """The checkpoint cannot be used. The message names the file, the reason and what to do."""


def first_three(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def foreign(read: Callable[Concatenate[Place, P], T]) -> Callable[Concatenate[Place, P], T]:
    """Make what tensors of unexpected shapes raise a BadCheckpoint; `read` takes their path first.

    They come from outside. A wrong shape shows wherever the tensor is first taken apart or joined
    with another, as an IndexError or torch's RuntimeError.
    """

    @wraps(read)
    def reading(path: Place, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(path, *args, **kwargs)
        except (IndexError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise BadCheckpoint(
                f"{path}: its tensors have shapes that no known model has ({reason}) - take the"
                " checkpoint as its library wrote it"
            ) from error

    return reading
