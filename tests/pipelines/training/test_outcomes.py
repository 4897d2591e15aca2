"""The commands that a stage names at its end, as a user can paste them."""

import os
from pathlib import Path

import pytest

from pipelines.cli.command_line import read_command
from pipelines.training.outcomes import Outcome, next_commands


@pytest.mark.parametrize(
    ("stage", "words", "used"),
    [
        ("finetune", (), "--recipe digits --run digits IMAGES"),
        ("pretrain", ("--run", "my run"), "--recipe digits --run 'my run' --only pretrain IMAGES"),
        ("finetune", ("--place.data-root", "/sets"), "--run digits --place.data-root /sets IMAGES"),
        ("pretrain", ("--recipe", "digits-mae"), None),
    ],
)
def test_what_is_named_measures_and_uses_the_stage(
    stage: str, words: tuple[str, ...], used: str | None
) -> None:
    command = read_command(list(words), prog="x.py", description="", stage_name=stage)
    said = next_commands(Outcome(stage, "trained", {}, 1.0, "uri"), command)
    measure, *use = said.splitlines()
    assert measure.startswith("measure it: pipelines/evaluate.py --recipe ")
    if used is None:  # no classes to predict
        assert not use
        assert measure.endswith("--only pretrain --evaluators few-shot knn probe")
    else:
        assert [line.endswith(used) for line in use] == [True]
    assert Path("pipelines/predict.py").is_file()
    assert os.access("pipelines/evaluate.py", os.X_OK)
