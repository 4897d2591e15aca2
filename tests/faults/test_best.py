"""`keep: best` when workers and the driver are killed: the same weights, of the same step."""

import random
from pathlib import Path

import pytest

from pipelines.lineage.newest_state import newest_state
from storage.commits import read_manifest as manifest_of
from tests.faults.support.injury import Stage, kill_trainer

SCIENCE = [
    *("--stage.keep", "best", "--stage.metric", "val/loss", "--stage.patience", "2"),
    *("--stage.steps", "240", "--stage.eval-every-steps", "40"),
    # The rate rises all the time: what was learned is destroyed from a third on.
    *("--stage.optim.warmup-steps", "240", "--stage.optim.peak-lr", "0.05"),
    *("--stage.model.depth", "1"),
]
PLACE = [
    *("--place.save-every-steps", "10", "--place.log-every-steps", "10"),
    *("--place.max-failures", "-1"),
]


def stage_of(run: str, place: list[str], address: str, tmp_path: Path) -> Stage:
    return Stage.pretraining(run, [*place, *PLACE, *SCIENCE], address, tmp_path)


def saved_best(stage: Stage) -> dict[str, int]:
    """What the newest state says of the best evaluation, once there is one."""
    try:
        newest = newest_state(str(stage.folder))
        manifest = manifest_of(newest.uri) if newest else None
    except (ValueError, FileNotFoundError):  # no folder yet, or an older state that just went
        manifest = None
    return manifest["best"] if manifest else {"step": 0, "since_best": 0}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_best_weights_survive_kills_and_another_number_of_workers(
    ray_session: str, place: list[str], tmp_path: Path
) -> None:
    """Two groups and two drivers: only real ones show that nothing of it lives in a process."""
    broken = stage_of("broken", place, ray_session, tmp_path)
    broken.start()
    broken.wait("a best", lambda: saved_best(broken)["step"])
    assert kill_trainer(broken, random.Random(0))
    broken.wait("a worse evaluation", lambda: saved_best(broken)["since_best"])
    assert broken.ended is None
    assert broken.job is not None
    broken.job.kill()
    broken.job.wait(120)
    assert not (broken.folder / "manifest.json").exists()
    broken.command += ["--place.workers.min", "1", "--place.workers.max", "1"]
    broken.start()
    broken.finish()

    unbroken = stage_of("unbroken", place, ray_session, tmp_path)
    unbroken.start()
    unbroken.finish()
    expected, found = unbroken.committed(), broken.committed()
    assert found.files == expected.files  # sizes and sha256
    assert found.step == expected.step < 240
    assert found.best == expected.best
    assert found.best is not None
    assert found.best.trained_steps == found.step + 2 * 40
    assert found.metrics["val/loss"] == expected.metrics["val/loss"] == found.best.value
    log = broken.log.read_text()
    assert f"kept the weights of step {found.step}: the best val/loss" in log
    assert f"ended after step {found.best.trained_steps} of 240: 2 evaluations" in log
