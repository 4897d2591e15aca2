"""What is null of `workers` is what the cluster has; nothing stays idle in silence."""

import pytest

from cluster.errors import BadPlace
from cluster.scaling import settle_workers
from cluster.settings import Place, Workers


def settled(have: float, **workers: int) -> tuple[tuple[int | None, ...], str]:
    place, note = settle_workers(Place(workers=Workers(**workers)), have_gpus=have)
    return (place.workers.min, place.workers.max, place.workers.gpus), note


@pytest.mark.parametrize(
    ("have", "workers", "wanted"),
    [
        (0, {}, (2, 2, 0)),
        (1, {}, (1, 1, 1)),
        (8, {}, (8, 8, 1)),
        (8, {"max": 2}, (2, 2, 1)),
        (8, {"min": 1}, (1, 8, 1)),
        (8, {"min": 1, "max": 4}, (1, 4, 1)),
        (8, {"gpus": 0}, (2, 2, 0)),
        (0, {"min": 1}, (1, 2, 0)),
        (0, {"min": 3}, (3, 3, 0)),
        (0, {"max": 1}, (1, 1, 0)),
        (0, {"gpus": 1}, (1, 1, 1)),
    ],
)
def test_null_is_what_the_cluster_has(
    have: float, workers: dict[str, int], wanted: tuple[int, int, int]
) -> None:
    assert settled(have, **workers) == (wanted, "")


def test_too_few_gpus_stay_idle_and_the_note_says_how_to_use_them() -> None:
    (_, _, gpus), note = settled(1, min=2)
    assert gpus == 0
    assert "--place.workers.min 1 --place.workers.max 1 uses it" in note


@pytest.mark.parametrize("gpus", [0, 1])
def test_what_the_place_says_is_not_touched(gpus: int) -> None:
    place = Place(workers=Workers(min=2, max=4, gpus=gpus), wait_for_nodes=True)
    assert settle_workers(place, have_gpus=8 * (1 - gpus)) == (place, "")


def test_null_is_refused_while_nodes_are_still_to_come() -> None:
    place = Place(workers=Workers(min=2, max=4), wait_for_nodes=True)
    with pytest.raises(BadPlace, match=r"0 GPUs for 2 workers .*--place.workers.gpus 1"):
        settle_workers(place, have_gpus=0)
    assert settle_workers(place, have_gpus=2)[0].workers.gpus == 1
    for workers in (Workers(gpus=1), Workers(min=2)):
        with pytest.raises(BadPlace, match=r"workers.max is null .* set --place.workers.max"):
            settle_workers(Place(workers=workers, wait_for_nodes=True), have_gpus=2)
