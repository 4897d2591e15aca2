"""A save that fails on one rank ends the stage on all of them, at once and with one reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.lineage.newest_state import newest_state
from tests.cluster.support.groups import run_group
from tests.pipelines.support import saving_worker
from tests.pipelines.support.saving_worker import FAULTS, FIRST, SECOND


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Two processes that meet every fault; the folder, and what each rank says of each."""
    folder = tmp_path_factory.mktemp("group")
    run_group(saving_worker.main, 2, folder, seconds=120)
    return folder, [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("fault", FAULTS)
def test_every_rank_stops_at_the_next_save(
    group: tuple[Path, list[dict[str, Any]]], fault: str
) -> None:
    """Rank 0 used to wait a quarter of an hour for a part that would not come."""
    folder, ranks = group
    first, second = (rank[fault] for rank in ranks)
    assert first["stopped"] == second["stopped"]
    assert f"the state of step {SECOND} could not be saved" in first["stopped"]
    assert max(first["seconds"], second["seconds"]) < 60
    newest = newest_state(str(folder / fault))
    assert newest is not None
    assert newest.step == FIRST
