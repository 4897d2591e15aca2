"""Twenty-odd faults in one run, drawn from a seed: it ends with the weights of the unbroken run."""

import random
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from storage import weights
from tests.faults.support.injury import FAULTS, Stage

SAVE = 5
SCIENCE = [
    *("--stage.eval-every-steps", "0"),
    *("--stage.model.depth", "1", "--stage.model.dropout", "0.1"),
    *("--stage.optim.ema-decay", "0.9", "--stage.global-batch", "16"),
]
PLACE = [
    *("--place.save-every-steps", str(SAVE), "--place.log-every-steps", str(SAVE)),
    *("--place.max-failures", "-1", "--place.hang-seconds", "25", "--place.keep-states", "3"),
]


def stage_of(run: str, steps: int, place: list[str], address: str, tmp_path: Path) -> Stage:
    science = [*SCIENCE, "--stage.steps", str(steps)]
    return Stage.pretraining(run, [*place, *PLACE, *science], address, tmp_path)


def losses(tmp_path: Path, attempt: Path) -> dict[int, tuple[float, ...]]:
    """Step -> the values MLflow has of its loss."""
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    (run,) = client.search_runs(
        [experiment.experiment_id], filter_string=f"tags.`vit.attempt` = '{attempt}'"
    )
    assert run.info.status == "FINISHED"
    found: dict[int, tuple[float, ...]] = {}
    for metric in client.get_metric_history(run.info.run_id, "train/loss"):
        found[metric.step] = (*found.get(metric.step, ()), metric.value)
    return found


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("seed", "kills", "steps"), [(0, 21, 1500), (1, 9, 700)])  # nine kinds
def test_the_weights_are_those_of_the_unbroken_run(
    seed: int, kills: int, steps: int, ray_session: str, place: list[str], tmp_path: Path
) -> None:
    draw = random.Random(seed)
    order = [fault for _ in range(kills) for fault in draw.sample(FAULTS, len(FAULTS))][:kills]
    broken = stage_of("broken", steps, place, ray_session, tmp_path)
    broken.start()
    done: list[str] = []
    for fault in order:
        before = broken.saved()
        broken.wait("a state", lambda before=before: broken.saved() > before)
        time.sleep(draw.random())
        saved = broken.saved()
        assert broken.ended is None, broken.log.read_text()[-3000:]
        while (hit := fault(broken, draw)) is None:  # nobody there at this moment
            time.sleep(0.05)
            assert broken.ended is None, broken.log.read_text()[-3000:]
        done.append(f"{fault.__name__:<22} after state {saved:>5}: {hit}")
    broken.finish()
    print("\n".join(done))
    log = broken.log.read_text()
    assert broken.ended == 0, log[-3000:]
    assert len(done) == kills

    unbroken = stage_of("unbroken", steps, place, ray_session, tmp_path)
    unbroken.start()
    unbroken.finish()
    assert unbroken.ended == 0, unbroken.log.read_text()[-3000:]
    for name in ("weights", "weights_ema"):
        expected, _ = weights.read_weights(str(unbroken.folder), name=name)
        found, _ = weights.read_weights(str(broken.folder), name=name)
        assert found.keys() == expected.keys()
        assert all(found[key].equal(expected[key]) for key in expected)
    expected_losses = losses(tmp_path, unbroken.folder)
    assert sorted(expected_losses) == list(range(1, steps + 1))
    assert losses(tmp_path, broken.folder) == expected_losses  # no step twice, none missing
