"""`workers.gpus: null` is what the cluster has; nothing stays idle in silence."""

import pytest

from cluster.errors import BadPlace
from cluster.scaling import settle_gpus
from cluster.settings import Place, Workers


def settled(have: float, **workers: int) -> tuple[int | None, str]:
    place, note = settle_gpus(Place(workers=Workers(**workers)), have_gpus=have)
    return place.workers.gpus, note


@pytest.mark.parametrize(("have", "gpus"), [(0, 0), (2, 1), (8, 1)])
def test_null_is_a_gpu_each_where_there_are_enough(have: float, gpus: int) -> None:
    assert settled(have) == (gpus, "")


def test_too_few_gpus_stay_idle_and_the_note_says_how_to_use_them() -> None:
    gpus, note = settled(1)
    assert gpus == 0
    assert "--place.workers.min 1 --place.workers.max 1 uses it" in note


@pytest.mark.parametrize("gpus", [0, 1])
def test_what_the_place_says_is_not_touched(gpus: int) -> None:
    place = Place(workers=Workers(gpus=gpus), wait_for_nodes=True)
    assert settle_gpus(place, have_gpus=8 * (1 - gpus)) == (place, "")


def test_null_is_refused_while_nodes_are_still_to_come() -> None:
    place = Place(wait_for_nodes=True)
    with pytest.raises(BadPlace, match=r"0 GPUs for 2 workers .*--place.workers.gpus 1"):
        settle_gpus(place, have_gpus=0)
    assert settle_gpus(place, have_gpus=2)[0].workers.gpus == 1
