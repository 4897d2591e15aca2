"""Saving behind the training: what is committed, what is not, and what is said."""

import threading
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from pipelines.lineage.resume_states import newest_state, open_state
from pipelines.worker import saver as saving
from pipelines.worker.saver import Saver
from storage.pieces import Piece, open_pieces
from tests.storage.support.full_disk import full_disk


def savers(attempt: Path, world_size: int, *, keep: int = 2) -> list[Saver]:
    return [
        Saver(str(attempt), rank=rank, world_size=world_size, token="t", keep=keep)
        for rank in range(world_size)
    ]


def half(rank: int, value: float) -> list[Piece]:
    return [("weights/w", (4,), 2 * rank, torch.full((2,), value))]


def step_of_newest(attempt: Path) -> int | None:
    state = newest_state(str(attempt))
    return state.step if state else None


def test_what_changes_after_the_call_is_not_in_the_state(tmp_path: Path) -> None:
    (alone,) = savers(tmp_path, 1)
    values = torch.ones(4)
    alone.save(5, [("weights/w", (4,), 0, values)])
    values.zero_()  # the next step
    alone.finish()
    state = newest_state(str(tmp_path))
    assert state is not None
    with open_pieces(state.uri) as found:
        assert found["weights/w"].tolist() == [1, 1, 1, 1]


def test_the_state_is_committed_when_the_last_rank_is_done(tmp_path: Path) -> None:
    first, second = savers(tmp_path, 2)
    first.save(5, half(0, 1))
    first.settle()
    assert step_of_newest(tmp_path) is None
    second.save(5, half(1, 1))
    second.settle()
    first.finish()
    assert step_of_newest(tmp_path) == 5
    assert first.failure is second.failure is None


def test_saving_again_waits_for_the_state_before(tmp_path: Path) -> None:
    (alone,) = savers(tmp_path, 1, keep=1)
    for step in (1, 2, 3):
        alone.save(step, [("weights/w", (1,), 0, torch.tensor([float(step)]))])
    alone.finish()
    assert step_of_newest(tmp_path) == 3
    assert len(list((tmp_path / "resume").glob("step-*/manifest.json"))) == 1


def test_a_rank_that_fails_leaves_the_last_good_state(tmp_path: Path) -> None:
    first, second = savers(tmp_path, 2)
    for saver, rank in ((first, 0), (second, 1)):
        saver.save(5, half(rank, 1))
    first.finish()
    first.save(10, half(0, 2))
    second.save(10, half(1, float("nan")))
    for saver in (first, second):
        saver.settle()
    assert second.failure is not None
    assert "weights/w holds values that are not finite after step 10" in second.failure
    first.give_up()
    assert first.failure is None
    assert step_of_newest(tmp_path) == 5


def test_a_place_that_takes_no_files_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "resume").write_text("a file where a folder is wanted")
    (alone,) = savers(tmp_path, 1)
    alone.save(5, [("weights/w", (1,), 0, torch.ones(1))])
    alone.finish()
    assert alone.failure is not None
    assert alone.failure.startswith("the state of step 5 could not be saved: ")
    assert "\n" not in alone.failure


@pytest.mark.parametrize("error", [SafetensorError, ValueError, MemoryError, SystemExit])
def test_whatever_ends_the_thread_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def write_part(*arguments: object) -> None:
        raise error("unexpected,\nin two lines")

    monkeypatch.setattr(saving, "write_part", write_part)
    (alone,) = savers(tmp_path, 1)
    alone.save(5, half(0, 1))
    alone.settle()
    assert alone.failure == (
        f"the state of step 5 could not be saved: {error.__name__}: unexpected, in two lines"
    )


def test_a_full_temporary_folder_is_a_failure(tmp_path: Path) -> None:
    (alone,) = savers(tmp_path, 1)
    alone.save(5, half(0, 1))
    alone.finish()
    with full_disk(1 << 16):
        alone.save(10, [("weights/w", (1 << 16,), 0, torch.ones(1 << 16))])
        alone.finish()
    assert alone.failure is not None
    assert alone.failure.startswith("the state of step 10 could not be saved: ")
    assert "TMPDIR" in alone.failure
    assert step_of_newest(tmp_path) == 5


def test_patience_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "PATIENCE_SECONDS", 0.5)
    first, _ = savers(tmp_path, 2)
    first.save(5, half(0, 1))
    waiting = threading.Thread(target=first.finish)
    waiting.start()
    waiting.join(timeout=20)
    assert not waiting.is_alive()
    assert first.failure is not None
    assert "missing" in first.failure


def test_a_state_remembers_what_was_told(tmp_path: Path) -> None:
    (alone,) = savers(tmp_path, 1)
    told = [{"step": 4, "train/loss": 0.5}, {"step": 5, "train/loss": 0.25}]
    alone.save(5, [("weights/w", (1,), 0, torch.ones(1))], told)
    alone.finish()
    with open_state(str(tmp_path)) as state:
        assert state is not None
        assert state.manifest["told"] == told
