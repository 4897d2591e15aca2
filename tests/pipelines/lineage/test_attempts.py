from pathlib import Path

import pytest
import torch

from pipelines.lineage.attempts import (
    Attempt,
    attempt_to_make,
    choose_parent,
    committed_attempts,
    newest,
)
from pipelines.lineage.manifest import Manifest
from pipelines.recipes.errors import Mistake
from storage import weights

A, B = "a" * 16, "b" * 16


def attempts(*names: str) -> list[Attempt]:
    return [Attempt(name, f"runs/{name}", Manifest(stage={"name": "pretrain"})) for name in names]


def choose(
    found: list[Attempt],
    *,
    from_recipe: str | None = None,
    requested: str | None = None,
    looked_in: str = "/nowhere/x/pretrain",
) -> str:
    parent = choose_parent(
        found,
        from_recipe=from_recipe,
        requested=requested,
        looked_in=looked_in,
        command="pretrain.py",
    )
    return parent.name


def test_only_committed_attempts_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "pretrain"
    weights.commit(str(folder / A), {"w": torch.zeros(1)}, {"step": 1, "stage": {}})
    (folder / B).mkdir()
    (folder / B / "weights.safetensors").write_bytes(b"torn")
    assert [a.name for a in committed_attempts(str(tmp_path), "run", "pretrain")] == [A]


@pytest.mark.parametrize("name", [f"{A}-backup", "backup", f"{A}-2-old", f"copy of {A}", f"{A}-0"])
def test_a_copied_folder_is_no_attempt(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run" / "pretrain"
    for committed in (A, f"{A}-2", name):
        weights.commit(str(folder / committed), {"w": torch.zeros(1)}, {"step": 1, "stage": {}})
    found = committed_attempts(str(tmp_path), "run", "pretrain")
    assert [one.name for one in found] == [A, f"{A}-2"]
    assert attempt_to_make(found, A) == f"{A}-3"


def test_attempts_are_ordered_by_number_not_by_name() -> None:
    found = newest(attempts(A, f"{A}-9", f"{A}-10"), A)
    assert found is not None
    assert found.name == f"{A}-10"


def test_force_makes_the_next_attempt_beside_the_last() -> None:
    assert attempt_to_make([], A) == A
    assert attempt_to_make(attempts(B), A) == A
    assert attempt_to_make(attempts(A, f"{A}-2"), A) == f"{A}-3"


def test_the_recipes_own_parent_is_preferred() -> None:
    assert choose(attempts(A, B), from_recipe=B) == B


def test_the_only_parent_is_taken_though_the_recipe_has_changed() -> None:
    assert choose(attempts(A, f"{A}-2"), from_recipe=B) == f"{A}-2"


def test_the_asked_for_parent_is_taken() -> None:
    assert choose(attempts(A, B), from_recipe=B, requested=A) == A


def test_several_parents_have_to_be_chosen_from() -> None:
    with pytest.raises(ValueError, match=rf"choose one by --parent .*: {A}.*, {B}"):
        choose(attempts(A, B))


def test_a_missing_parent_names_the_place_and_the_command() -> None:
    with pytest.raises(
        ValueError, match=r"no committed weights under /nowhere/x/pretrain - run: pretrain\.py"
    ):
        choose([])


def test_a_mistyped_run_lists_the_runs_there_are(tmp_path: Path) -> None:
    for name in ("photos", "digits", ".checks"):
        (tmp_path / name / "finetune").mkdir(parents=True)
    with pytest.raises(Mistake, match=r"/photo/finetune \(runs here: digits, photos\) - run"):
        choose([], looked_in=f"{tmp_path}/photo/finetune")
    with pytest.raises(Mistake, match=r"/photos/finetune - run"):
        choose([], looked_in=f"{tmp_path}/photos/finetune")


def test_an_unknown_asked_for_parent_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match=f"--parent {B} is not committed .* only {A}"):
        choose(attempts(A), requested=B)
