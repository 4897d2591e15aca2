"""Read values from untrusted JSON and check their types."""

import json
from collections.abc import Mapping
from typing import Any, cast


class BadValue(Exception):
    """A text is not a JSON object, or one of its values is missing or has another type."""


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse a text that must be a JSON object. Raises BadValue."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadValue(f"not JSON: {error}") from None
    return object_of({"the text": found}, "the text")


def object_of(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A value that must be an object. Raises BadValue."""
    value = _value(content, name)
    if not isinstance(value, dict):
        raise BadValue(f"{name} is not an object")
    return cast("dict[str, Any]", value)


def list_of(content: Mapping[str, Any], name: str) -> list[Any]:
    """A value that must be a list. Raises BadValue."""
    value = _value(content, name)
    if not isinstance(value, list):
        raise BadValue(f"{name} is not a list")
    return cast("list[Any]", value)


def text_of(content: Mapping[str, Any], name: str) -> str:
    """A value that must be a text. Raises BadValue."""
    value = _value(content, name)
    if not isinstance(value, str):
        raise BadValue(f"{name} is not a text")
    return value


def texts_of(content: Mapping[str, Any], name: str) -> list[str]:
    """A value that must be a list of texts. Raises BadValue."""
    found = list_of(content, name)
    if not all(isinstance(each, str) for each in found):
        raise BadValue(f"{name} is not a list of texts")
    return found


def whole_of(content: Mapping[str, Any], name: str) -> int:
    """A value that must be a whole number of at least 0, below 2**63. Raises BadValue."""
    value = _value(content, name)
    if not is_whole(value):
        raise BadValue(f"{name} is not a whole number")
    return cast("int", value)


def is_whole(value: object) -> bool:
    """Whether a value is a whole number in [0, 2**63); `True` is not one."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _value(content: object, name: str) -> object:
    if not isinstance(content, Mapping):
        raise BadValue(f"there is no {name}: what should contain it is not an object")
    found = cast("Mapping[str, object]", content)
    if name not in found:
        raise BadValue(f"there is no {name}")
    return found[name]
