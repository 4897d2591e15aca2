"""How many stages fit, and which may start; running them is in studies/ and suites/."""

from dataclasses import replace

import pytest

from cluster.errors import BadPlace
from cluster.settings import Place, Workers
from pipelines.campaigns.concurrent_stages import ready, room
from pipelines.recipes.digits import DIGITS, PRETRAIN

CPU = Place(workers=Workers(min=2, max=2, gpus=0))
GPU = Place(workers=Workers(min=8, max=8, gpus=1))


@pytest.mark.parametrize(
    ("place", "resources", "fits"),
    [
        (CPU, {"CPU": 2.0}, 1),  # one stage's workers share half of them
        (CPU, {"CPU": 16.0}, 6),  # 2 workers x 1 CPU and 0.5 to decode
        (GPU, {"CPU": 96.0, "GPU": 8.0}, 1),
        (GPU, {"CPU": 96.0, "GPU": 31.0}, 3),
        (GPU, {"CPU": 17.5, "GPU": 64.0}, 2),  # CPUs are what is short
        (GPU, {}, 1),  # all nodes are still to come
    ],
)
def test_as_many_stages_run_as_the_cluster_has_room_for(
    place: Place, resources: dict[str, float], fits: int
) -> None:
    assert room(place, resources)[1] == fits


def test_stages_that_are_asked_for_share_the_cpus_of_one() -> None:
    place, at_once = room(CPU, {"CPU": 4.0}, 2)
    assert at_once == 2
    assert place.workers.cpus == 0.5  # 2 stages x 2 workers on half of 4 CPUs
    assert room(CPU, {"CPU": 4.0}, 1)[0].workers.cpus == 1.0


@pytest.mark.parametrize(
    ("place", "resources", "asked", "said"),
    [
        (GPU, {"CPU": 96.0, "GPU": 8.0}, 2, "--parallel 2: 1 stages of 8 workers"),
        (CPU, {"CPU": 2.0}, 4, "--parallel 4: 2 stages"),  # nothing would decode
        (CPU, {"CPU": 2.0}, 0, "wanted at least 1"),
    ],
)
def test_more_than_fit_are_refused(
    place: Place, resources: dict[str, float], asked: int, said: str
) -> None:
    with pytest.raises(BadPlace, match=said):
        room(place, resources, asked)


def test_a_cluster_that_grows_is_taken_at_its_word() -> None:
    assert room(replace(GPU, wait_for_nodes=True), {}, 12)[1] == 12


def test_a_stage_waits_for_its_parent() -> None:
    stages = (*DIGITS.stages, replace(PRETRAIN, name="other"))

    def names(unfinished: set[str]) -> list[str]:
        return [stage.name for stage in ready(stages, unfinished)]

    assert names({stage.name for stage in stages}) == ["pretrain", "other"]
    assert names({"upscale", "finetune"}) == ["pretrain", "upscale", "other"]
