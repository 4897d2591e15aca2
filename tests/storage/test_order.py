"""The order contract: exactly once an epoch, equal for every worker count, any step directly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import BadOrder
from storage.order import (
    OrderSpec,
    epoch_draws,
    epochs_at,
    global_batch,
    natural_run,
    rank_batch,
    rank_slice,
    steps_per_epoch,
)


def spec(samples: int, batch: int, **changes: object) -> OrderSpec:
    return OrderSpec(
        **{"digest": "d", "samples": samples, "seed": 0, "global_batch": batch} | changes  # pyright: ignore[reportArgumentType]  wrong on purpose or by **
    )


runs = st.integers(1, 40)
seeds = st.integers(0, 2**63)


@given(samples=st.integers(1, 3000), run=runs, seed=seeds, epoch=st.integers(0, 10**6))
def test_an_epoch_is_a_permutation(samples: int, run: int, seed: int, epoch: int) -> None:
    order = spec(samples, 1, run_samples=run, seed=seed)
    positions, visits = epoch_draws(order, epoch, np.arange(samples))
    assert (visits == epoch).all()
    assert np.array_equal(np.sort(positions), np.arange(samples))


@settings(max_examples=30)
@given(samples=st.integers(1, 600), batch=st.integers(1, 64), run=runs)
def test_drop_sees_each_sample_at_most_once_an_epoch(samples: int, batch: int, run: int) -> None:
    batch = min(batch, samples)
    order = spec(samples, batch, run_samples=run)
    steps = steps_per_epoch(order)
    for epoch in (0, 3):
        batches = [global_batch(order, epoch * steps + step) for step in range(steps)]
        seen = np.concatenate([positions for _, positions in batches])
        assert len(np.unique(seen)) == len(seen) == samples // batch * batch
        assert all((epochs == epoch).all() for epochs, _ in batches)


@settings(max_examples=30)
@given(samples=st.integers(1, 300), batch=st.integers(1, 700), run=runs)
def test_carry_sees_each_sample_exactly_once_an_epoch(samples: int, batch: int, run: int) -> None:
    order = spec(samples, batch, tail="carry", run_samples=run)
    steps = -(-3 * samples // batch)
    batches = [global_batch(order, step) for step in range(steps)]
    epochs = np.concatenate([epoch for epoch, _ in batches])
    positions = np.concatenate([position for _, position in batches])
    assert (np.diff(epochs) >= 0).all()
    for epoch in range(3):
        assert np.array_equal(np.sort(positions[epochs == epoch]), np.arange(samples))


@given(
    samples=st.integers(1, 10**6),
    rows=st.integers(1, 8),
    world=st.sampled_from([1, 2, 3, 5, 8, 64, 512, 4096]),
    step=st.integers(0, 10**7),
    tail=st.sampled_from(["drop", "carry"]),
)
@settings(max_examples=30)
def test_global_batch_is_independent_of_workers(
    samples: int, rows: int, world: int, step: int, tail: str
) -> None:
    if tail == "drop":
        samples = max(samples, rows * world)
    order = spec(samples, rows * world, tail=tail)
    epoch, position = global_batch(order, step)
    ranks = sorted({0, world // 2, world - 1})
    for rank in ranks:
        rank_epoch, rank_position = rank_batch(order, step, rank=rank, world_size=world)
        part = rank_slice(rows * world, rank=rank, world_size=world)
        assert np.array_equal(rank_epoch, epoch[part])
        assert np.array_equal(rank_position, position[part])


def test_slices_of_all_ranks_are_the_global_batch() -> None:
    order = spec(10_000, 96)
    for world in (1, 2, 3, 4, 6, 8, 96):
        parts = [rank_batch(order, 7, rank=r, world_size=world)[1] for r in range(world)]
        assert np.array_equal(np.concatenate(parts), global_batch(order, 7)[1])


def test_any_step_of_a_huge_run_is_reached_directly() -> None:
    order = spec(300_000_000, 4096)
    _, late = global_batch(order, 90 * steps_per_epoch(order) - 1)
    assert len(np.unique(late)) == 4096
    assert late.min() >= 0
    assert late.max() < 300_000_000


@pytest.mark.parametrize("changed", [{"seed": 1}, {"digest": "e"}, {"run_samples": 8}])
def test_order_depends_on_seed_digest_and_run(changed: dict[str, object]) -> None:
    one, other = global_batch(spec(5000, 64), 3)[1], global_batch(spec(5000, 64, **changed), 3)[1]
    assert not np.array_equal(one, other)


def test_epochs_differ() -> None:
    order = spec(5000, 50)
    assert not np.array_equal(global_batch(order, 0)[1], global_batch(order, 100)[1])


def test_the_order_never_changes() -> None:
    """A run resumed by a later version of this code must continue the sequence it began."""
    assert global_batch(spec(1437, 8, run_samples=2), 1000)[1].tolist() == [
        500,
        501,
        1284,
        1285,
        1392,
        1393,
        60,
        61,
    ]


def test_runs_stay_together() -> None:
    _, positions = global_batch(
        spec(10_000, 160, run_samples=16), 5
    )  # 10,000 is a multiple of 16: no short run
    assert (positions.reshape(10, 16) == positions[::16, None] + np.arange(16)).all()


def test_steps_and_epochs() -> None:
    assert steps_per_epoch(spec(100, 30)) == 3
    assert steps_per_epoch(spec(100, 30, tail="carry")) == 4
    assert epochs_at(spec(100, 30), 6) == 2.0
    assert epochs_at(spec(100, 30, tail="carry"), 10) == 3.0


def test_drop_needs_one_whole_batch() -> None:
    with pytest.raises(BadOrder, match="100 samples do not fill one of 256: set tail 'carry'"):
        spec(100, 256)


def test_workers_must_divide_the_batch() -> None:
    with pytest.raises(BadOrder, match="global batch 64 is not a multiple of 3 workers"):
        rank_batch(spec(100, 64), 0, rank=0, world_size=3)


def test_empty_selection_has_no_order() -> None:
    with pytest.raises(BadOrder, match="selection is empty"):
        spec(0, 1)


# quality: how much a batch differs from one of a full shuffle

CLASSES, SAMPLES, BATCH = 1000, 1_280_000, 1024
SORTED = np.repeat(np.arange(CLASSES), SAMPLES // CLASSES)
SHUFFLED = np.random.default_rng(0).permutation(SORTED)


def classes_in_a_batch(labels: np.ndarray, run: int) -> float:
    order = spec(SAMPLES, BATCH, run_samples=run)
    return float(np.mean([len(np.unique(labels[global_batch(order, s)[1]])) for s in range(20)]))


def design_effect(labels: np.ndarray, run: int) -> float:
    """Variance of the batch's class shares over that of independent draws: 1 is a full shuffle."""
    order = spec(SAMPLES, BATCH, run_samples=run)
    counts = np.array(
        [np.bincount(labels[global_batch(order, s)[1]], minlength=CLASSES) for s in range(100)]
    )
    return float(counts.var(axis=0).mean() / (BATCH / CLASSES * (1 - 1 / CLASSES)))


def test_shuffled_shards_are_read_in_runs_and_mix_like_a_full_shuffle() -> None:
    run = natural_run(SHUFFLED, global_batch=BATCH)
    assert run == 16
    assert abs(classes_in_a_batch(SHUFFLED, run) - 641) < 10  # 1000 * (1 - 0.999 ** 1024)
    assert abs(design_effect(SHUFFLED, run) - 1) < 0.05


def test_sorted_shards_are_shuffled_by_the_sample_and_mix_like_a_full_shuffle() -> None:
    run = natural_run(SORTED, global_batch=BATCH)
    assert run == 1
    assert abs(classes_in_a_batch(SORTED, run) - 641) < 10
    assert abs(design_effect(SORTED, run) - 1) < 0.05


def test_runs_of_sorted_shards_would_cost_what_the_design_effect_says() -> None:
    assert classes_in_a_batch(SORTED, 16) < 64
    assert abs(design_effect(SORTED, 16) - 16) < 1


def test_half_sorted_shards_get_short_runs() -> None:
    labels = np.where(np.random.default_rng(0).random(SAMPLES) < 0.3, SORTED, SHUFFLED)
    run = natural_run(labels, global_batch=BATCH)
    assert 1 < run < 4
    assert design_effect(labels, run) < 1.15


@pytest.mark.parametrize(
    ("samples", "batch", "run"), [(1420, 64, 1), (70_000, 64, 4), (70_000, 1024, 16), (1, 1, 1)]
)
def test_small_sets_and_batches_get_short_runs(samples: int, batch: int, run: int) -> None:
    labels = np.random.default_rng(0).integers(0, 10, samples)
    assert natural_run(labels, global_batch=batch) == run


def test_a_single_class_says_nothing_about_mixing() -> None:
    assert natural_run(np.zeros(100_000, dtype=np.int32), global_batch=1024) == 16
