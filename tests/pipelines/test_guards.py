"""A run that diverges stops at once, says where, and keeps its last good state."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.states import newest_state
from tests.pipelines.conftest import Said


@pytest.mark.usefixtures("ray_session")
def test_a_loss_that_is_no_number_stops_the_stage_and_is_not_saved(
    command: Callable[..., Said], place: list[str], tmp_path: Path
) -> None:
    """The learning rate rises until the weights overflow; every report may be the first to see."""
    said = command(
        "pretrain",
        *place,
        *("--stage.steps", "60", "--stage.global-batch", "16", "--stage.model.depth", "1"),
        *("--stage.optim.name", "sgd", "--stage.optim.peak-lr", "1e30"),
        *(
            "--stage.optim.warmup-steps",
            "50",
        ),
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
