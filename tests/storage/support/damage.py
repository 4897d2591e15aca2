"""Damage for files that are read back, drawn by hypothesis with a seed that is kept."""

import json
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from storage.errors import StorageError

fuzz = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "50")),
    deadline=None,
    derandomize=False,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

OTHERS = [b"", b"[" * 100_000, b"PK\x03\x04", b"\x80\x04"]
"""Nothing, deep nesting, a zip, a pickle."""
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["../x", "/etc/passwd", "\x00", "\ud800", "F16", "I64", "float32"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@st.composite
def damaged_bytes(draw: st.DrawFn, good: bytes) -> bytes:
    """A few bits flipped, a stretch removed or repeated, or other bytes altogether."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "repeat", "all"]))
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=12))
        elif kind == "repeat":
            data[at:at] = data[at : at + 64] * draw(st.integers(1, 40))
        elif kind == "all":
            data = bytearray(draw(st.sampled_from(OTHERS)))
    return bytes(data)


@st.composite
def damaged_json(draw: st.DrawFn, good: bytes) -> bytes:
    """One value of a JSON text, at any depth, removed or replaced by any other."""
    content = json.loads(good)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        keys = value if isinstance(value, dict) else range(len(value))
        for key in keys:
            places.append((value, key))
            if isinstance(value[key], dict | list):
                walk(value[key])

    walk(content)
    where, key = draw(st.sampled_from(places))
    if draw(st.booleans()):
        del where[key]
    else:
        where[key] = draw(VALUES)
    return json.dumps(content).encode()


def tried(action: Callable[[], object]) -> None:
    """Run what reads a damaged file: it works, or ends in one of our errors."""
    message = "it works"
    try:
        action()
    except StorageError as error:
        message = str(error)
    assert 0 < len(message) < 2000
