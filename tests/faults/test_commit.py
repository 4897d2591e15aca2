"""Killed anywhere between the last step and the end of the MLflow run: the same weights, once."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import weights
from tests.faults.support.injury import (
    Stage,
    committed,
    kill_all_trainers,
    kill_job,
    kill_trainer,
    states_dropped,
    uploading_weights,
)
from tests.faults.test_chaos import losses, stage_of

STEPS = 60
Fault = Callable[[Stage, random.Random], str | None]


@pytest.fixture(scope="module")
def unbroken() -> dict[str, object]:
    """The weights and losses of a run without faults, once they are known."""
    return {}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("restarts", ["0", "-1"])
@pytest.mark.parametrize(
    "point", [uploading_weights, committed, states_dropped], ids=lambda point: point.__name__
)
@pytest.mark.parametrize(
    "fault", [kill_trainer, kill_all_trainers, kill_job], ids=lambda fault: fault.__name__
)
def test_the_commit_is_the_end(
    fault: Fault,
    point: Callable[[Stage], bool],
    restarts: str,
    unbroken: dict[str, object],
    ray_session: str,
    place: list[str],
    tmp_path: Path,
) -> None:
    if restarts == "0" and (fault is kill_job or point is uploading_weights):
        pytest.skip("no restart is asked for, or none would be left before the commit")
    if not unbroken:
        stage = stage_of("unbroken", STEPS, place, ray_session, tmp_path)
        stage.start()
        stage.finish()
        assert stage.ended == 0, stage.log.read_text()[-3000:]
        unbroken["weights"] = {
            name: weights.read_weights(str(stage.folder), name=name)[0]
            for name in ("weights", "weights_ema")
        }
        unbroken["losses"] = losses(tmp_path, stage.folder)

    broken = stage_of("broken", STEPS, place, ray_session, tmp_path)
    broken.command += ["--place.max-failures", restarts]
    broken.start()
    broken.wait("a state", lambda: broken.saved() > 0)
    broken.wait(point.__name__, lambda: point(broken))
    print(f"{fault.__name__} at {point.__name__}: {fault(broken, random.Random(0))}")
    broken.finish()
    log = broken.log.read_text()
    assert broken.ended == 0, log[-3000:]
    assert committed(broken)
    assert states_dropped(broken)
    found = {
        name: weights.read_weights(str(broken.folder), name=name)[0]
        for name in ("weights", "weights_ema")
    }
    expected: dict[str, dict[str, object]] = unbroken["weights"]  # type: ignore[assignment]
    for name, tensors in found.items():
        assert tensors.keys() == expected[name].keys()
        assert all(value.equal(expected[name][key]) for key, value in tensors.items())  # type: ignore[arg-type]
    assert len(list(broken.folder.glob("weights-*.safetensors"))) == 1
    assert losses(tmp_path, broken.folder) == unbroken["losses"]
