"""Which datasets a mixture is made of, as its `dataset.json` says (`pack.py mix`).

The shards of a split are those of the first dataset, then those of the second, and so on. So the
number of each one's shards tells which dataset a sample comes from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from storage.json_values import list_of, object_of, text_of, whole_of


@dataclass(frozen=True, kw_only=True)
class Member:
    """One dataset of a mixture."""

    name: str
    """For people: the last part of its location."""
    digest: str
    shards: Mapping[str, int]
    """Number of its shards in each split of the mixture."""

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> tuple[Self, ...]:
        """Parse the field `mixed_from` of a JSON object; () if it has none. Raises BadValue."""
        if content.get("mixed_from") is None:
            return ()
        return tuple(
            cls(
                name=text_of(each, "name"),
                digest=text_of(each, "digest"),
                shards=MappingProxyType(_counts(object_of(each, "shards"))),
            )
            for each in list_of(content, "mixed_from")
        )

    def plain(self) -> dict[str, Any]:
        """The member as values for JSON."""
        return {"name": self.name, "digest": self.digest, "shards": dict(self.shards)}


def _counts(content: Mapping[str, Any]) -> dict[str, int]:
    return {name: whole_of(content, name) for name in content}


def member_of(members: Sequence[Member], split: str, shard: np.ndarray) -> np.ndarray:
    """The member that each sample comes from: number of its shard, int [n] -> int64 [n]."""
    ends = np.cumsum([member.shards.get(split, 0) for member in members])  # [members]
    return np.searchsorted(ends, shard, side="right").astype(np.int64)
