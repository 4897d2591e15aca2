"""What the driver says first, and that a stage on a thread can be stopped."""

import threading
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from pipelines.lineage.attempts import Attempt
from pipelines.lineage.resume_states import save_state
from pipelines.recipes import find_recipe
from pipelines.recipes.digits import PRETRAIN
from pipelines.recipes.stage import Stage
from pipelines.training.driver import amount, origin
from pipelines.training.fit import ended
from pipelines.training.listener import Listener
from pipelines.worker.background import Background
from pipelines.worker.messages import Started


@dataclass
class Planned:
    """Of a plan, what the first line needs."""

    attempt: Attempt
    stage: Any = PRETRAIN
    parent: Attempt | None = None


@pytest.mark.parametrize("parent", [None, Attempt("abc", "elsewhere", None)])
def test_a_resumed_stage_does_not_begin_from_scratch(tmp_path: Any, parent: Attempt | None) -> None:
    plan: Any = Planned(Attempt("f", str(tmp_path), None), parent=parent)
    fresh = "from None abc" if parent else "from scratch"
    assert origin(plan) == fresh
    save_state(str(tmp_path), {"cursor": torch.zeros(1)}, step=20)
    assert origin(plan) == "continues after step 20"


@pytest.mark.parametrize(
    ("recipe", "changes", "told"),
    [
        (
            "digits",
            {},
            "1,420 images of 7 classes to train on, 90 images to validate on; 60 steps of 64",
        ),
        ("digits-mae", {}, "1,420 images to train on, 90 images to validate on; 60 steps of"),
        ("digits", {"steps": 0}, "90 images to validate on; no steps"),
    ],
)
def test_the_amount_of_work_is_told(recipe: str, changes: dict[str, Any], told: str) -> None:
    stage = replace(find_recipe(recipe).stage("pretrain"), steps=60, global_batch=64)
    plan: Any = Amounts(stage=replace(stage, **changes))
    said = amount(plan)
    assert told in said
    if "steps" not in changes:
        assert "3 epochs; learning rate 0.001 after 10 steps" in said


@dataclass
class Amounts:
    """Of a plan, what there is to do."""

    stage: Stage
    train_images: int = 1420
    val_images: int = 90
    steps_per_epoch: float = 20.0


@dataclass
class Ear:
    """A progress and a tracker that keep what they hear."""

    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def log_start(self, step: int) -> None: ...

    def log_steps(self, records: Any) -> None: ...

    def notices(self) -> list[str]:
        return []


@pytest.mark.parametrize(
    ("notes", "line"),
    [
        ((), "8 micro"),
        (("fresh weights",), "8 micro; fresh weights"),
        (("a", "b"), "8 micro; a, b"),
    ],
)
def test_the_line_of_a_start_does_not_dangle(notes: tuple[str, ...], line: str) -> None:
    ear: Any = Ear()
    plan: Any = Planned(Attempt("f", "", None))
    Listener(ear, ear, plan).handle(Started(plan="8 micro", notes=notes, step=0, records=()))
    assert ear.notes == [line]


def test_a_stage_on_a_thread_is_stopped_by_its_event() -> None:
    going, stop = threading.Event(), threading.Event()
    fit = Background(going.wait)
    assert not ended(fit, stop)
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        ended(fit, stop)
    going.set()
    fit.result()
    assert ended(fit, None)
