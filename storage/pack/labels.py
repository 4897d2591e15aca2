"""Find the class of a sample in a tar: the member that contains it, and its number.

Without `key` it is `KEY.cls`, `.label` or `.class` (also followed by `.txt`), else a single dotted
one such as `KEY.output.cls`, else a field `label`, `cls` or `class` of `KEY.json`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from storage.errors import BadSource
from storage.pack.source import hash_of

_WORDS = ("cls", "label", "class")
_PLAIN = (*_WORDS, *(f"{word}.txt" for word in _WORDS))
_JSON = ("json", "jsn")
_NUMBER = re.compile(r"([0-9]{1,9})(\.0*)?")


class Unlabelled(Exception):
    """Raised for a sample whose class cannot be found; its text is the reason."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The rule for labels in one set of tars."""

    key: str | None = None
    """Suffix of the member that contains the label, or the field of the .json that does."""
    classes: tuple[str, ...] | None = None
    """Class names in the order of their numbers; labels may then be names too."""
    _numbers: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        numbers = {name: i for i, name in enumerate(self.classes or ())}
        if self.classes and len(numbers) < len(self.classes):
            raise BadSource("--classes names a class twice: wanted one name a line, each once")
        moved = [f"{name} as number {i}" for name, i in numbers.items() if _other(name, i)]
        if moved and len(moved) < 1000:
            raise BadSource(
                f"--classes names classes by numbers that are not their place in the file, such as "
                f"{moved[0]}: a label {moved[0].split()[0]} could mean either"
            )
        object.__setattr__(self, "_numbers", numbers)

    def identity(self) -> str:
        """Hash of the rule."""
        return hash_of(json.dumps([self.key, self.classes]))

    def of(self, group: Mapping[str, bytes]) -> tuple[int, str | None]:
        """Number of the class, and a note unless it is in the usual `.cls` or `label`.

        `group` maps suffixes to the bytes of the sample's members. Raises Unlabelled.
        """
        value, where = self._find(group)
        number = self._number(value)
        usual = where in ("cls", "the field label of .json")
        return number, None if usual else f"labels read from {_shown_place(where)}"

    def names(self, suffix: str) -> bool:
        """Whether a member of that suffix may contain the class."""
        if self.key is not None:
            return suffix == self.key or suffix in _JSON
        return suffix in _PLAIN or suffix in _JSON or suffix.rpartition(".")[2] in _WORDS

    def _find(self, group: Mapping[str, bytes]) -> tuple[Any, str]:
        if self.key is not None:
            if self.key in group:
                return _text(group[self.key]), self.key
            return self._from_json(group, (self.key,), f"no label: neither .{self.key} nor")
        for suffix in _PLAIN:
            if suffix in group:
                return _text(group[suffix]), suffix
        dotted = [suffix for suffix in group if suffix.rpartition(".")[2] in _WORDS]
        if len(dotted) > 1:
            raise Unlabelled(f"several labels (.{', .'.join(dotted[:3])}): say --label-key")
        if dotted:
            return _text(group[dotted[0]]), dotted[0]
        return self._from_json(group, ("label", "cls", "class"), "no label (.cls): there is not")

    def _from_json(
        self, group: Mapping[str, bytes], names: tuple[str, ...], missing: str
    ) -> tuple[Any, str]:
        suffix = next((suffix for suffix in _JSON if suffix in group), None)
        if suffix is None:
            raise Unlabelled(f"{missing} a .json" if self.key else "no label (.cls)")
        try:
            content = json.loads(group[suffix])
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, dict):
            for name in names:
                if name in content:
                    return content[name], f"the field {name} of .{suffix}"
        raise Unlabelled(
            f"no number named {' or '.join(names)} in its .{suffix}"
            + ("" if self.key else ": name the field with --label-key")
        )

    def _number(self, value: Any) -> int:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            text = str(value).strip()
            if text in self._numbers:
                return self._numbers[text]
            found = _NUMBER.fullmatch(text)
            if found:
                return int(found.group(1))
        shown = repr(value if isinstance(value, str | bytes) else str(value))[:24]
        if self.classes is not None:
            raise Unlabelled(f"label {shown} is none of the {len(self.classes)} of --classes")
        named = isinstance(value, str) and value.strip().isidentifier()
        raise Unlabelled(
            f"label {shown} is not a class number"
            + (": name the classes, one a line, by --classes FILE" if named else "")
        )


def read_classes(path: str) -> tuple[str, ...]:
    """Read class names from a text file, one per line. Raises BadSource."""
    try:
        with open(path, encoding="utf-8") as file:
            names = tuple(line.strip() for line in file if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BadSource(f"--classes {path} cannot be read: {reason}") from None
    if not names:
        raise BadSource(f"--classes {path} is empty: wanted one class name a line")
    return names


def _other(name: str, place: int) -> bool:
    return bool(_NUMBER.fullmatch(name)) and name != str(place)


def _text(data: bytes) -> str | bytes:
    try:
        return data[:1000].decode()
    except UnicodeDecodeError:
        return data[:1000]


def _shown_place(where: str) -> str:
    return where if where.startswith("the ") else f".{where}"
