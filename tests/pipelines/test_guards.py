"""A run that diverges stops at once, says where, and keeps its last good state."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.guards import MOST_SKIPPED, skipped_in_a_row
from pipelines.states import newest_state
from tests.pipelines.conftest import Said


def test_only_the_skipped_steps_at_the_end_are_in_a_row() -> None:
    assert skipped_in_a_row(3, [False, False]) == 5
    assert skipped_in_a_row(3, [False, True, False]) == 1
    assert skipped_in_a_row(3, [False, True]) == 0


DIVERGES = [
    *("--stage.steps", "80", "--stage.global-batch", "16", "--stage.model.depth", "1"),
    *("--stage.optim.name", "sgd", "--stage.optim.peak-lr", "1e30"),
    *("--stage.optim.warmup-steps", "50"),
]


@pytest.mark.usefixtures("ray_session")
def test_a_loss_that_is_no_number_stops_the_stage_and_is_not_saved(
    command: Callable[..., Said], place: list[str], tmp_path: Path
) -> None:
    """The learning rate rises until the weights overflow; every report may be the first to see."""
    said = command(
        "pretrain",
        *place,
        *DIVERGES,
        *("--place.save-every-steps", "1", "--place.log-every-steps", "20"),
    )
    assert said.code == 2, said
    assert said.err.count("\n") == 1
    found = re.search(
        r"the loss of step (\d+) is no number on (every rank|rank 0|rank 1)", said.err
    )
    assert found, said.err
    assert re.search(r"begins with digit-\d+ \(train-000000\.tar\)", said.err)
    assert said.out.count("fresh weights") == 1  # no restart would mend it
    (folder,) = (tmp_path / "runs" / "digits" / "pretrain").iterdir()
    state = newest_state(str(folder))
    assert (state.step if state else 0) == int(found[1]) - 1
    assert not (folder / "manifest.json").exists()


@pytest.mark.usefixtures("ray_session")
def test_skipping_ends_where_no_batch_can_be_the_cause(
    command: Callable[..., Said], place: list[str]
) -> None:
    """The weights have overflowed: every batch is skipped, until that is seen."""
    said = command(
        *("pretrain", *place, *DIVERGES, "--stage.nonfinite", "skip"),
        *("--place.save-every-steps", "0", "--place.log-every-steps", "4"),
    )
    assert said.code == 2, said
    assert said.err.count("\n") == 1
    stopped = re.search(r"the loss of step (\d+) is no number", said.err)
    noted = re.findall(
        r"warning: the loss of step (\d+) is no number .* (\d+) steps went", said.out
    )
    assert stopped
    assert noted, said.out
    first = int(noted[0][0])
    assert int(stopped[1]) - first < MOST_SKIPPED
    assert sum(int(steps) for _, steps in noted) < MOST_SKIPPED
