"""`verify_order.py` on a real Ray with real kills; and what it says of an order that is wrong."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipelines.checks import order as order_proof
from pipelines.checks.order import Outcome, exactly_once, print_table
from pipelines.checks.order_groups import History, Step
from storage.balance import Balanced, samples_by_class
from storage.order import OrderSpec, global_batch
from tests.pipelines.conftest import Said

ORDER = OrderSpec(digest="d", samples=10, seed=0, global_batch=4, tail="carry")


def history(positions: list[int], epochs: list[int]) -> History:
    columns = np.array(epochs), np.array(positions), np.zeros(len(positions), np.uint32)
    return History([Step(*columns)])


@pytest.mark.parametrize(
    ("positions", "epochs", "verdict"),
    [
        ([*range(10), 3, 4], [0] * 10 + [1] * 2, "yes"),
        ([*range(9), 3, 3, 4], [0] * 10 + [1] * 2, "no: epoch 0 has 1 twice"),
        ([*range(9), 3, 4], [0] * 9 + [1] * 2, "no: epoch 0 is not complete"),
        ([*range(4), 2], [0] * 5, "no: epoch 0 has 1 twice"),
    ],
)
def test_an_epoch_holds_each_sample_once(
    positions: list[int], epochs: list[int], verdict: str
) -> None:
    assert exactly_once(history(positions, epochs), ORDER) == verdict


# class 0 is 6 of 8 samples, class 1 two: each has 4 draws of an epoch
LABELS = np.array([0, 0, 1, 0, 0, 1, 0, 0])
BALANCED = replace(
    ORDER,
    samples=8,
    balanced=Balanced.of(samples_by_class(LABELS, digest="d", seed=0), "uniform", samples=8),
)


@pytest.mark.parametrize(
    ("wrong", "verdict"),
    [
        ("", "yes"),
        ("share", "no: epoch 0 has 1 too often"),  # the small class, once more than its share
        ("turn", "no: epoch 0 has 1 too often"),  # a sample of the large class before its turn
    ],
)
@pytest.mark.parametrize("selected", [None, np.arange(100, 116, 2)])
def test_an_epoch_of_balanced_classes_holds_each_sample_as_often_as_promised(
    wrong: str, verdict: str, selected: np.ndarray | None
) -> None:
    steps = [global_batch(BALANCED, step) for step in range(5)]  # two epochs and a half
    epochs, positions = (np.concatenate(column) for column in zip(*steps, strict=True))
    first_of_small = int(np.flatnonzero((LABELS[positions] == 1) & (epochs == 0))[0])
    first_of_large = int(np.flatnonzero((LABELS[positions] == 0) & (epochs == 0))[0])
    if wrong == "share":
        positions[first_of_large] = positions[first_of_small]
    elif wrong == "turn":
        waiting = np.setdiff1d(np.flatnonzero(LABELS == 0), positions[epochs == 0])
        positions[first_of_large] = waiting[0]
    if selected is not None:
        positions = selected[positions]
    found = exactly_once(history(positions.tolist(), epochs.tolist()), BALANCED, selected)
    assert found == verdict


@pytest.mark.parametrize(
    "change", [{"keys": "x"}, {"pixels": "x"}, {"samples": 9}, {"once": "no: epoch 0 has 1 twice"}]
)
def test_any_difference_is_one(
    change: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    same = {"workers": "1", "kills": 0, "samples": 8, "keys": "a", "pixels": "b", "once": "yes"}
    assert print_table([Outcome(**same), Outcome(**same)])  # pyright: ignore[reportArgumentType]  by **
    assert not print_table([Outcome(**same), Outcome(**same | change)])  # pyright: ignore[reportArgumentType]
    assert "DIFFER" in capsys.readouterr().out


@pytest.fixture
def verify_order(
    called: Callable[..., Said], tmp_path: Path, local_data: str
) -> Callable[..., Said]:
    config = tmp_path / "place.yaml"
    config.write_text(f"data_root: {local_data}\nstorage_root: {tmp_path}/runs\n")
    return partial(called, order_proof.main, "verify_order", "--config", str(config))


@pytest.mark.slow  # a minute; tests/storage/test_stream.py has the same order and kills, in parts
@pytest.mark.usefixtures("ray_session")
def test_worker_counts_and_kills_change_nothing(
    verify_order: Callable[..., Said], tmp_path: Path
) -> None:
    said = verify_order("--workers", "1", "4", "--steps", "18", "--kills", "2")
    assert said.code == 0, said
    assert "4-1 workers: 18 steps, 2 kills" in said.out
    assert "every worker count saw the same batches" in said.out
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]


@pytest.mark.slow  # minutes; tests/storage/test_balance.py has the same without Ray
@pytest.mark.usefixtures("ray_session")
def test_balanced_classes_are_proved_too(verify_order: Callable[..., Said]) -> None:
    said = verify_order(*("--balance", "uniform", "--workers", "2", "1", "--kills", "1"))
    assert said.code == 0, said
    assert "2-1 workers: 30 steps, 1 kills" in said.out
    assert "every worker count saw the same batches" in said.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "3"], "the global batch 64 of stage pretrain is not divisible by it"),
        (["--recipe", "nothing"], "nothing"),
        (["--dataset", "/no/where"], "no dataset.json under /no/where"),
        (["--steps", "2", "--kills", "3"], "fewer kills than steps"),
    ],
)
def test_mistakes_are_one_line(
    verify_order: Callable[..., Said], arguments: list[str], message: str
) -> None:
    said = verify_order(*arguments)
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert message in said.err
