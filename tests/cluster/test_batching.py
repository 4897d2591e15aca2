import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.batching import BatchPlan, plan_batch
from cluster.elastic import largest_share
from cluster.errors import BadPlace
from cluster.scaling import check_room, worker_counts, worker_cpus
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
    assert worker_counts(Workers(min=1, max=4), global_batch=24) == (1, 2, 3, 4)


def test_only_numbers_of_workers_that_share_the_batch_may_train() -> None:
    assert worker_counts(Workers(min=3, max=9), global_batch=64) == (4, 8)


@given(st.integers(1, 300), st.integers(1, 32), st.integers(0, 32), st.integers(2, 100))
def test_any_number_of_workers_that_may_train_has_even_micro_batches_where_samples_are_mixed(
    batch: int, fewest: int, more: int, limit: int
) -> None:
    workers = Workers(min=fewest, max=fewest + more)
    counts = [n for n in range(fewest, fewest + more + 1) if batch % n == 0 and batch // n % 2 == 0]
    if not counts:
        with pytest.raises(BadPlace, match="into even shares, which mixup"):
            worker_counts(workers, global_batch=batch, even=True)
        return
    assert worker_counts(workers, global_batch=batch, even=True) == tuple(counts)
    for n in counts:
        plan = plan_batch(batch, workers=n, max_micro_batch=limit, even=True)
        assert (plan.global_batch, plan.micro % 2) == (batch, 0)
        assert plan.micro <= limit


def test_an_even_micro_batch_is_preferred_to_a_larger_odd_one() -> None:
    assert plan_batch(12, workers=2, max_micro_batch=3, even=True) == BatchPlan(2, 2, 3)


def test_no_even_micro_batch_is_an_error() -> None:
    with pytest.raises(BadPlace, match="of 8 workers each has 3 of global batch 24"):
        plan_batch(24, workers=8, max_micro_batch=64, even=True)
    with pytest.raises(BadPlace, match="up to max_micro_batch 1 divides"):
        plan_batch(24, workers=2, max_micro_batch=1, even=True)


def test_no_dividing_count_is_an_error() -> None:
    with pytest.raises(BadPlace, match=r"from 5 to 7 .* into equal shares"):
        worker_counts(Workers(min=5, max=7), global_batch=64)


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
    found = largest_share(workers, counts=[n for n in range(1, 65) if batch % n == 0])
    counts = [n for n in range(1, workers + 1) if batch % n == 0]
    assert found == max(counts, default=0)


def test_an_elastic_group_never_has_a_number_of_workers_that_cannot_mix() -> None:
    counts = worker_counts(Workers(min=2, max=12), global_batch=24, even=True)
    assert counts == (2, 3, 4, 6, 12)
    assert largest_share(9, counts=counts) == 6  # 8 divide the batch, but leave three samples each
