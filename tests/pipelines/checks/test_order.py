"""`verify_order.py` on a real Ray with real kills; and what it says of an order that is wrong."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipelines.checks import order as order_proof
from pipelines.checks.order import Outcome, exactly_once, print_table
from pipelines.checks.order_groups import History, Step
from storage.order import OrderSpec
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
