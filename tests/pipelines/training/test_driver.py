"""What the driver says first, and that a stage on a thread can be stopped."""

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from pipelines.lineage.attempts import Attempt
from pipelines.lineage.resume_states import save_state
from pipelines.recipes.digits import PRETRAIN
from pipelines.training.driver import origin
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
