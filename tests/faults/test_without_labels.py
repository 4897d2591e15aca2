"""Training without labels, killed: what is hidden of a sample is the same in every life."""

import random
from pathlib import Path

import pytest

from tests.faults.support.injury import Stage, kill_trainer

SCIENCE = [
    *("--stage.steps", "120", "--stage.eval-every-steps", "60"),
    *("--stage.model.depth", "1", "--stage.model.drop-path", "0.1"),
]
PLACE = [
    *("--place.save-every-steps", "10", "--place.log-every-steps", "10"),
    *("--place.max-failures", "-1", "--place.zero.level", "3"),
]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("objective", "workers_after"), [("mae", 2), ("masked-patch", 1)])
def test_it_ends_with_the_weights_of_the_unbroken_run(
    ray_session: str, place: list[str], tmp_path: Path, objective: str, workers_after: int
) -> None:
    """A worker and then the driver are killed, at level 3: bit-equal with as many workers.

    With another number of workers the sums are rounded otherwise, and nothing else changes.
    Groups and drivers of its own: only real ones show that nothing of it lives in a process.
    """
    options = [*place, *PLACE, *SCIENCE, "--recipe", f"digits-{objective}"]
    broken = Stage.pretraining("broken", options, ray_session, tmp_path)
    broken.start()
    broken.wait("a state", broken.saved)
    assert kill_trainer(broken, random.Random(0))
    before = broken.saved()
    broken.wait("a newer state", lambda: broken.saved() > before)
    assert broken.ended is None
    assert broken.job is not None
    broken.job.kill()
    broken.job.wait(120)
    assert not (broken.folder / "manifest.json").exists()
    count = str(workers_after)
    broken.command += ["--place.workers.min", count, "--place.workers.max", count]
    broken.start()
    broken.finish()

    unbroken = Stage.pretraining("unbroken", options, ray_session, tmp_path)
    unbroken.start()
    unbroken.finish()
    expected, found = unbroken.committed(), broken.committed()
    if workers_after == 2:
        assert found.files == expected.files  # sizes and sha256
    assert found.metrics["val/loss"] == pytest.approx(expected.metrics["val/loss"], rel=1e-6)
    assert (broken.folder / "pictures" / "hidden-patches.png").stat().st_size > 1000
