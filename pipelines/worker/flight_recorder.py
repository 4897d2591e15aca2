"""How far this process is in the group's collective operations: torch's flight recorder knows.

Every rank calls the same operations in the same order. So of ranks that hang in one step, the one
that has called fewest of them keeps the others waiting. The recorder is on by default.
"""

import json
from dataclasses import dataclass
from typing import Any

_DUMPS = ("_dump_nccl_trace_json", "_dump_fr_trace_json")
"""Of NCCL, where torch is built with it, and of other backends."""


@dataclass(frozen=True, kw_only=True)
class Collectives:
    """How many operations a rank came to, of all groups together."""

    called: int
    """By the host, which runs ahead of a GPU."""
    started: int
    """Of them, known to have begun on a GPU. NCCL knows of those that ended, and with the variable
    TORCH_NCCL_ENABLE_TIMING=1 of all; other backends know of none."""
    last: str
    """Name of the last one that was called, such as `nccl:all_reduce`."""


def collectives() -> Collectives | None:
    """What this process has called until now; None if nothing was recorded.

    Other threads stand still meanwhile, for as long as a GPU's driver takes to answer.
    """
    from torch._C import _distributed_c10d as c10d  # the driver, which only reads, has no torch

    for name in _DUMPS:
        dump: Any = getattr(c10d, name, None)
        entries = json.loads(dump()).get("entries", []) if dump is not None else []
        own = [entry for entry in entries if not entry["is_p2p"]]
        if own:
            started = [entry for entry in own if entry["state"] in ("started", "completed")]
            last: str = own[-1]["profiling_name"]
            return Collectives(called=_number(own), started=_number(started), last=last)
    return None


def _number(entries: list[dict[str, Any]]) -> int:
    """Of the last one, from 1. The recorder keeps the last 2,000, and counts all."""
    return entries[-1]["record_id"] + 1 if entries else 0
