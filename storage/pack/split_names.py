"""Recognise the split in the name of a folder or file."""

import re

HELD_OUT = ("val", "test")
_WORDS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_WHOLE = re.compile(rf"(?:seg_)?({'|'.join(_WORDS)})", re.IGNORECASE)
_BEGIN = re.compile(rf"({'|'.join(sorted(_WORDS, key=len, reverse=True))})(?![a-z])", re.IGNORECASE)


def split_of(name: str) -> str | None:
    """train, val or test, if a folder's name means it."""
    found = _WHOLE.fullmatch(name)
    return _WORDS[found.group(1).lower()] if found else None


def split_of_file(path: str) -> str | None:
    """train, val or test, by the last folder or file name in a path that begins with a word."""
    for part in reversed(path.split("/")):
        found = _BEGIN.match(part)
        if found:
            return _WORDS[found.group(1).lower()]
    return None
