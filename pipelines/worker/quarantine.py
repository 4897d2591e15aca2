"""Samples that could not be used: counted over all ranks, named once, too many of them a reason to
stop.

The stream replaces such a sample by rule, so training goes on. Here the ranks agree on which ones
were met so far, which also a restarted worker group remembers.

<attempt>/quarantine.json    [{"role", "split", "position", "shard", "key", "reason"}, ...]

Of the first thousand of a role. The positions of further ones are in one more record, {"role",
"split", "positions": [...]}: a restarted group must count them, too.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from pipelines.recipes.streams import train_spec, val_spec
from pipelines.worker.feed import TRAIN, VAL
from pipelines.worker.job import Job
from storage.columns import StreamSpec, describe
from storage.errors import BadSample, ObjectNotFound
from storage.objects import open_store

FILE = "quarantine.json"
_NAMED = 1000  # that many are described: each is read again for it


class Quarantine:
    """The damaged samples that a stage attempt met in what it trains on, or evaluates on.

    The two may be parts of one split: they are told apart by their role, `train` or `val`.
    """

    def __init__(
        self, role: str, spec: StreamSpec, digest: str, *, attempt_uri: str, limit: float
    ) -> None:
        self.role = role
        self.spec, self.digest, self.attempt_uri, self.limit = spec, digest, attempt_uri, limit
        own = [r for r in read_records(attempt_uri) if self._is_own(r)]
        self.records = [record for record in own if "position" in record]
        self._known = {int(record["position"]) for record in self.records}
        for record in own:
            self._known |= set(record.get("positions", ()))
        self._new: set[int] = set()

    def __len__(self) -> int:
        return len(self._known)

    def add(self, quarantined: np.ndarray) -> None:
        """Take a batch's column: int64 [b], -1 where nothing is wrong."""
        self._new |= set(quarantined[quarantined >= 0].tolist()) - self._known

    def agree(self, device: torch.device) -> list[int]:
        """All ranks' new positions, sorted. Collective: every rank calls and gets the same."""
        most = torch.tensor([len(self._new)], device=device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        if not int(most):
            return []
        mine = torch.full((int(most),), -1, dtype=torch.int64, device=device)  # [most]
        mine[: len(self._new)] = torch.tensor(sorted(self._new), dtype=torch.int64)
        each = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(each, mine)
        found = set(torch.cat(each).tolist()) - {-1} - self._known
        self._known |= found
        self._new.clear()
        return sorted(found)

    def record(self, positions: list[int]) -> list[str]:
        """Write down what is wrong with them; return it as lines. For one rank."""
        lines: list[str] = []
        for position in positions[: max(0, _NAMED - len(self.records))]:
            problem = describe(self.spec, self.digest, position)
            problem = problem or BadSample("?", str(position), "it can be read now")
            lines.append(str(problem))
            self.records.append(
                {
                    "role": self.role,
                    "split": self.spec.split,
                    "position": position,
                    "shard": problem.shard,
                    "key": problem.key,
                    "reason": problem.reason,
                }
            )
        others = [r for r in read_records(self.attempt_uri) if not self._is_own(r)]
        rest = sorted(self._known - {record["position"] for record in self.records})
        more = [{"role": self.role, "split": self.spec.split, "positions": rest}] if rest else []
        lines_of_json = ",\n ".join(json.dumps(record) for record in others + self.records + more)
        open_store(self.attempt_uri).write(FILE, f"[{lines_of_json}]".encode())
        return lines

    def _is_own(self, record: Mapping[str, Any]) -> bool:
        # Records of earlier versions have no role, only the split.
        return record.get("role", self.role) == self.role and record["split"] == self.spec.split

    def too_many(self, samples: int) -> str | None:
        """One line where more than the permitted share of the split cannot be used."""
        if len(self._known) <= self.limit * samples:
            return None
        first = ""
        if self.records:
            record = self.records[0]
            first = f", the first {record['key']!r} in {record['shard']}: {record['reason']}"
        return (
            f"{len(self._known)} of {samples} samples of {self.spec.dataset} ({self.spec.split})"
            f" cannot be used, more than max_bad_fraction {self.limit:g} allows{first}. See"
            f" {self.attempt_uri}/{FILE}; pack the dataset again, or raise place.max_bad_fraction"
        )


def quarantines(job: Job) -> tuple[Quarantine, Quarantine]:
    """Return the quarantines of a stage attempt: of what it trains on, and is evaluated on."""
    assert job.manifest.dataset is not None
    digest, limit = job.manifest.dataset.digest, job.place.max_bad_fraction
    train, val = (
        Quarantine(
            role,
            spec(job.stage, job.dataset_uri),
            digest,
            attempt_uri=job.attempt_uri,
            limit=limit,
        )
        for role, spec in ((TRAIN, train_spec), (VAL, val_spec))
    )
    return train, val


def read_records(attempt_uri: str) -> list[dict[str, Any]]:
    """What an attempt wrote down so far."""
    try:
        return json.loads(open_store(attempt_uri).read(FILE))
    except ObjectNotFound:
        return []
