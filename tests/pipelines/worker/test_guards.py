"""A run that diverges stops at once, says where, and keeps its last good state."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pipelines.lineage.newest_state import newest_state
from pipelines.worker.guards import skipped_in_a_row, usable_loss
from tests.cluster.support.groups import run_group
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
def test_skipping_ends_where_the_weights_are_the_cause(
    command: Callable[..., Said], place: list[str]
) -> None:
    """They have overflowed: there is no gradient of zeros either."""
    said = command(
        *("pretrain", *place, *DIVERGES, "--stage.nonfinite", "skip"),
        # Of one worker: what several agree on is shown without a Ray below.
        *("--place.workers.min", "1", "--place.workers.max", "1"),
        *("--place.save-every-steps", "0", "--place.log-every-steps", "4"),
    )
    assert said.code == 2, said
    assert said.err.count("\n") == 1
    assert re.search(r"the (loss|gradient) of step \d+ (is|has norm \S+:) no number", said.err)
    assert re.search(r"warning: the loss of step \d+ is .* \d+ steps skipped", said.out)


def rank_with_a_bad_loss(rank: int, world: int, port: int, folder: Path) -> None:
    """Rank 1's second loss is no number; each rank notes its gradients."""
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    model = torch.nn.Linear(3, 2)
    images = torch.full((4, 3), rank + 1.0)
    gradients = []
    for step in range(3):
        loss = model(images).square().mean()
        bad = step == 1 and rank == 1
        model.zero_grad()
        usable_loss(loss * float("nan") if bad else loss, model, images).backward()
        assert model.weight.grad is not None
        gradients.append(float(model.weight.grad.abs().sum()))
    (folder / f"{rank}.json").write_text(json.dumps(gradients))


def test_a_bad_loss_of_one_rank_counts_as_nothing_on_all(tmp_path: Path) -> None:
    run_group(rank_with_a_bad_loss, 2, tmp_path, seconds=60)
    for rank in range(2):
        first, skipped, last = json.loads((tmp_path / f"{rank}.json").read_text())
        assert first > 0
        assert skipped == 0
        assert last == first
