"""`max_micro_batch: null`: the plan's number, halved while memory runs out, kept for restarts."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from cluster.batching import BatchPlan
from cluster.settings import Place
from pipelines.recipes import find_recipe
from pipelines.recipes.batches import batch_of
from pipelines.training.fit import with_smaller_micro_batches
from pipelines.worker import micro_batch
from pipelines.worker.micro_batch import (
    MicroBatch,
    evaluated_number,
    halve,
    halve_evaluated,
    read_micro_batch,
    with_number,
)
from storage.errors import BadInput

BASE = find_recipe("vit-b16-imagenet21k").stages[0]
STAGE = replace(BASE, global_batch=4096)
MIXED = replace(STAGE, augment=replace(STAGE.augment, mixup=0.2))
PLACE = Place()
GPU = torch.device("cuda", 0)


def settled(
    monkeypatch: pytest.MonkeyPatch, attempt: Path, gibibytes: float, place: Place = PLACE
) -> int | None:
    """What rank 0 of 8 settles on for a GPU of so much memory."""
    card = SimpleNamespace(total_memory=int(gibibytes * 2**30))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(dist, "broadcast", lambda number, source: None)
    tensor = torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda value, device=None: tensor(value))
    found = with_number(STAGE, place, str(attempt), rank=0, workers=8, device=GPU)
    return found.max_micro_batch


def test_a_larger_card_gets_a_larger_micro_batch_that_divides_the_share(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = [settled(monkeypatch, tmp_path / str(size), size) for size in (8, 16, 80)]
    sizes = [size for size in found if size]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] > 64
    assert all(512 % size == 0 for size in sizes)
    assert read_micro_batch(str(tmp_path / "80")) == MicroBatch(most=sizes[-1])


def test_what_was_found_before_is_taken_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = settled(monkeypatch, tmp_path, 16)
    assert settled(monkeypatch, tmp_path, 80) == first


def test_a_number_and_cpus_are_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert settled(monkeypatch, tmp_path, 80, Place(max_micro_batch=7)) == 7
    cpu = torch.device("cpu")
    place = with_number(STAGE, Place(), str(tmp_path), rank=0, workers=2, device=cpu)
    assert batch_of(STAGE, place, 2).micro == 64
    assert not list(tmp_path.iterdir())


def test_halving_is_remembered_once_for_all_ranks(tmp_path: Path) -> None:
    attempt, plan = str(tmp_path), BatchPlan(micro=128, workers=8, accumulation=4)
    for _ in range(2):
        halve(STAGE, Place(), attempt, plan)
    assert read_micro_batch(attempt) == MicroBatch(most=64, too_large=(128,))
    halve(STAGE, Place(), attempt, BatchPlan(micro=64, workers=8, accumulation=8))
    assert read_micro_batch(attempt) == MicroBatch(most=32, too_large=(128, 64))


@pytest.mark.parametrize(("stage", "micro"), [(STAGE, 1), (MIXED, 2)])
def test_what_has_no_half_is_not_halved(tmp_path: Path, stage: object, micro: int) -> None:
    halve(stage, Place(), str(tmp_path), BatchPlan(micro=micro, workers=8, accumulation=1))  # type: ignore[arg-type]
    assert read_micro_batch(str(tmp_path)) is None


def test_the_driver_starts_again_until_it_fits(tmp_path: Path) -> None:
    attempt, notes, tried = str(tmp_path), list[str](), list[int]()

    def train() -> str:
        before = read_micro_batch(attempt)
        micro = before.most if before else 256
        tried.append(micro)
        if micro > 64:
            halve(STAGE, Place(), attempt, BatchPlan(micro=micro, workers=8, accumulation=1))
            raise BadInput("stage pretrain: out of memory")
        return "trained"

    assert with_smaller_micro_batches(train, attempt, notes.append) == "trained"
    assert tried == [256, 128, 64]
    assert ["256" in notes[0], "128" in notes[1], len(notes)] == [True, True, 2]


def test_another_mistake_is_raised_at_once(tmp_path: Path) -> None:
    halve(STAGE, Place(), str(tmp_path), BatchPlan(micro=8, workers=8, accumulation=1))

    def train() -> None:
        raise BadInput("stage pretrain: too many damaged samples")

    with pytest.raises(BadInput, match="damaged"):
        with_smaller_micro_batches(train, str(tmp_path), print)


def test_an_evaluation_has_a_number_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    attempt, plan = str(tmp_path), BatchPlan(micro=32, workers=8, accumulation=16)

    def number() -> int:
        monkeypatch.setattr(micro_batch, "of_first_rank", lambda value, device: value)
        return evaluated_number(STAGE, PLACE, plan, attempt, rank=0, device=GPU)

    assert number() == 128
    halve_evaluated(attempt, plan, 128)
    assert number() == 64
    halve_evaluated(attempt, plan, 128)  # another rank did so too
    assert number() == 64
    halve(STAGE, replace(PLACE, max_micro_batch=32), attempt, plan)
    found = read_micro_batch(attempt)
    assert found == MicroBatch(most=16, too_large=(32,), evaluated=64)


def test_an_evaluation_that_ran_out_of_memory_starts_the_group_again(tmp_path: Path) -> None:
    attempt, notes = str(tmp_path), []
    plan = BatchPlan(micro=32, workers=8, accumulation=16)
    tries = iter([128, None])

    def train() -> str:
        at_once = next(tries)
        if at_once is not None:
            halve_evaluated(attempt, plan, at_once)
            raise BadInput("does not fit")
        return "trained"

    assert with_smaller_micro_batches(train, attempt, notes.append) == "trained"
    assert notes == [
        "an evaluation needs more memory than a GPU has: starting again with 64 images at once"
        " in it"
    ]
