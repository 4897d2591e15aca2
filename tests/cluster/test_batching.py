import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.batching import BatchPlan, plan_batch
from cluster.elastic import largest_share
from cluster.errors import BadPlace
from cluster.scaling import check_room, worker_cpus, worker_range
from cluster.settings import Workers


@given(st.integers(1, 512), st.integers(1, 64), st.integers(1, 300))
def test_plan_multiplies_back_to_the_global_batch(local: int, workers: int, limit: int) -> None:
    plan = plan_batch(local * workers, workers=workers, max_micro_batch=limit)
    assert plan.micro * plan.workers * plan.accumulation == local * workers
    assert plan.micro <= limit


def test_the_largest_fitting_micro_batch_is_taken() -> None:
    assert plan_batch(4096, workers=8, max_micro_batch=100) == BatchPlan(64, 8, 8)


def test_workers_that_do_not_divide_the_batch_spell_the_equation() -> None:
    with pytest.raises(BadPlace, match=r"64 = 3 workers x 21.33 .* such as 1, 2, 4, 8"):
        plan_batch(64, workers=3, max_micro_batch=8)


def test_elastic_range_is_kept_where_every_count_divides() -> None:
    assert worker_range(Workers(min=1, max=4), global_batch=24) == (1, 4)


def test_both_ends_of_the_elastic_range_share_the_batch() -> None:
    assert worker_range(Workers(min=3, max=9), global_batch=64) == (4, 8)


def test_no_dividing_count_is_an_error() -> None:
    with pytest.raises(BadPlace, match="shared equally by none of 5 to 7 workers"):
        worker_range(Workers(min=5, max=7), global_batch=64)


def test_workers_share_half_the_cpus_by_default() -> None:
    assert worker_cpus(Workers(), most=2, cluster_cpus=2) == 0.5
    assert worker_cpus(Workers(), most=2, cluster_cpus=64) == 1.0
    assert worker_cpus(Workers(), most=2, cluster_cpus=0) == 1.0  # its nodes are still to come
    assert worker_cpus(Workers(gpus=1), most=2, cluster_cpus=2) == 1.0
    assert worker_cpus(Workers(cpus=0.25), most=2, cluster_cpus=64) == 0.25


def test_a_cluster_without_room_for_decoding_is_refused() -> None:
    sizes = {"decode_cpus": 1.0, "have_cpus": 2.0, "have_gpus": 0.0}
    check_room(fewest=2, cpus=0.5, gpus=0, **sizes)
    with pytest.raises(BadPlace, match=r"2 workers x 1 CPUs \+ 1 for decoding = 3 CPUs"):
        check_room(fewest=2, cpus=1.0, gpus=0, **sizes)
    with pytest.raises(BadPlace, match=r"2 workers x 1 GPU = 2 GPUs, but the cluster has 0"):
        check_room(fewest=2, cpus=0.5, gpus=1, **sizes)


@given(st.integers(0, 64), st.integers(1, 512))
def test_an_elastic_group_rounds_down_to_what_shares_the_batch(workers: int, batch: int) -> None:
    found = largest_share(workers, global_batch=batch)
    counts = [n for n in range(1, workers + 1) if batch % n == 0]
    assert found == max(counts, default=0)
