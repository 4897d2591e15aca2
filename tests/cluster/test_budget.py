"""The states of ZeRO, as the paper's figure 1 has them, and what our engine adds."""

from typing import Any, get_args

import pytest

from cluster.budget import LIVE_WEIGHTS, REDUCE_BUCKET, States, model_states, network_bytes
from cluster.settings import ZeroLevel

PARAMETERS, WORKERS = 7_500_000_000, 64  # figure 1 of arXiv:1910.02054


def states(level: ZeroLevel, **changed: Any) -> States:
    given: dict[str, Any] = {
        "workers": WORKERS,
        "element_bytes": 2,
        "optimizer_states": 2,
        "adam": True,
    }
    return model_states(PARAMETERS, level=level, **given | changed)


@pytest.mark.parametrize(("level", "gigabytes"), [(1, 31.4), (2, 16.6), (3, 1.9)])
def test_states_are_those_of_the_papers_figure(level: ZeroLevel, gigabytes: float) -> None:
    found = states(level)
    assert (found.standing + found.gradients) / 1e9 == pytest.approx(gigabytes, rel=0.02)


def test_float32_keeps_a_master_copy_from_level_1_on() -> None:
    plain, partitioned = (states(level, element_bytes=4, workers=1) for level in (0, 1))
    assert plain.master == 0
    assert partitioned.master == plain.weights == 4 * PARAMETERS


def test_an_average_is_one_more_state() -> None:
    more = states(2, optimizer_states=3).optimizer - states(2).optimizer
    assert more == pytest.approx(4 * PARAMETERS / WORKERS, rel=1e-6)


def test_offloading_moves_master_and_states_to_the_host() -> None:
    found = states(2, offload=True)
    assert (found.master, found.optimizer) == (0, 0)
    assert found.host > 12 * PARAMETERS / WORKERS


def test_a_gpu_holds_the_bucket_whole_and_a_cpu_what_is_written() -> None:
    small = {"element_bytes": 4, "optimizer_states": 2, "adam": True}
    gpu, gpus = (model_states(1000, level=2, workers=n, **small) for n in (1, 2))
    cpu = model_states(1000, level=2, workers=2, on_gpu=False, **small)
    assert (gpu.bucket, cpu.bucket) == (4 * REDUCE_BUCKET, 4000)
    assert gpus.bucket == 2 * gpu.bucket  # one is filled while the other travels


@pytest.mark.parametrize(("level", "share"), [(1, 1), (2, WORKERS), (3, WORKERS)])
def test_float32_sums_of_bfloat16_gradients_take_two_bytes_more(
    level: ZeroLevel, share: int
) -> None:
    narrow, wide = (states(level, float32_sums=some) for some in (False, True))
    more = wide.gradients - narrow.gradients
    assert more == pytest.approx(2 * PARAMETERS / share, rel=1e-6)
    assert wide.standing == narrow.standing
    large = 10**12
    peaks = [one.peak(large, accumulates=True) for one in (narrow, wide)]
    assert peaks[1] - peaks[0] >= more - narrow.bucket


@pytest.mark.parametrize("level", get_args(ZeroLevel))
def test_activations_add_to_the_peak_once_they_are_the_most(level: ZeroLevel) -> None:
    found = states(level, element_bytes=4)
    small, large, larger = (found.peak(size, accumulates=False) for size in (0, 10**12, 2 * 10**12))
    assert small < large
    assert larger - large == 10**12


def test_accumulating_keeps_the_gradients_beside_the_activations() -> None:
    found = states(1)
    once, again = (found.peak(10**12, accumulates=some) for some in (False, True))
    assert again - once == found.gradients


@pytest.mark.parametrize(
    ("level", "accumulation", "passes"),
    [(0, 1, 2), (1, 1, 3), (1, 4, 3), (2, 1, 3), (2, 4, 9), (3, 1, 2), (3, 4, 8)],
)
def test_network_bytes_are_passes_of_a_ring(
    level: ZeroLevel, accumulation: int, passes: int
) -> None:
    found = network_bytes(10**6, workers=4, level=level, element_bytes=2, accumulation=accumulation)
    assert found == passes * 3 / 4 * 2 * 10**6


def test_level_1_reduces_float32_sums_at_their_own_width() -> None:
    sent = network_bytes(10**6, workers=4, level=1, element_bytes=2, float32_sums=True)
    assert sent == (2 * 4 + 2) * 3 / 4 * 10**6


def test_one_worker_sends_nothing_and_large_weights_are_gathered_twice() -> None:
    assert network_bytes(10**6, workers=1, level=2, element_bytes=4) == 0
    large = network_bytes(2 * LIVE_WEIGHTS, workers=2, level=3, element_bytes=2)
    assert large == 3 / 2 * 2 * 2 * LIVE_WEIGHTS


@pytest.mark.parametrize("level", get_args(ZeroLevel))
def test_what_is_not_trained_is_weights_and_nothing_else(level: ZeroLevel) -> None:
    few = 1_000_000
    element = 2 if level else 4
    given: dict[str, Any] = {
        "workers": 4,
        "level": level,
        "element_bytes": element,
        "optimizer_states": 2,
        "adam": True,
    }
    alone, beside = (model_states(few, frozen=n, **given) for n in (0, 100 * few))
    more = element * 100 * few // (4 if level == 3 else 1)
    assert beside.weights - alone.weights == more
    kept = ("master", "optimizer", "gradients", "bucket", "reducing", "stepping")
    assert [getattr(beside, name) for name in kept] == [getattr(alone, name) for name in kept]


@pytest.mark.parametrize(("level", "gathered"), [(0, 0), (1, 0), (2, 0), (3, 1)])
def test_what_is_not_trained_travels_at_level_3_alone(level: ZeroLevel, gathered: int) -> None:
    given: dict[str, Any] = {"workers": 2, "level": level, "element_bytes": 4}
    alone, beside = (network_bytes(1000, frozen=n, **given) for n in (0, 9000))
    assert beside - alone == gathered * 4 * 9000 // 2


@pytest.mark.parametrize("on_gpu", [True, False])
def test_an_optimizer_that_makes_all_changes_first_keeps_them(on_gpu: bool) -> None:
    given: dict[str, Any] = {"element_bytes": 4, "optimizer_states": 2, "adam": False}
    given |= {"workers": 1, "level": 0, "on_gpu": on_gpu}
    gradients, both = (model_states(1000, changes=some, **given) for some in (False, True))
    assert (gradients.stepping, both.stepping) == (4000, 8000)
