"""Several packed datasets become one. Shares say how often each is drawn, on any worker count."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.local.s3 import S3Server
from storage.balance import member_shares
from storage.blocks import train_batch
from storage.columns import StreamSpec, open_stream, order_of
from storage.dataset import Dataset, load_dataset
from storage.decode import Crop
from storage.errors import BadDataset, BadOrder, BadSource, DatasetExists
from storage.index import load_index
from storage.mixture import member_of
from storage.objects import open_store
from storage.order import rank_draws
from storage.pack import pack
from storage.pack.folder import Folder
from storage.pack.mix import mix_datasets
from storage.reader import read_samples
from storage.selection import Selection
from storage.uri import join
from storage.verify import check_shards, verify
from tests.storage.support.images import encoded, gradient


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Forty images of classes a and 3; digits have a 3, too."""
    folder = tmp_path_factory.mktemp("letters")
    for name in ("a", "3"):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(20):
            image = np.roll(gradient(12, 12), number, axis=0)
            (folder / "images" / name / f"{number}.png").write_bytes(encoded(image, "PNG"))
    return pack(Folder(folder / "images"), str(folder / "letters"), shard_bytes=4 << 10)


@pytest.fixture(scope="module")
def mixture(digits: Dataset, letters: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return mix_datasets([letters.uri, digits.uri], str(tmp_path_factory.mktemp("mixture")))


def stream(mixture: Dataset, **changes: object) -> StreamSpec:
    given = {"dataset": mixture.uri, "crop": Crop(image_size=8, flip=False), "global_batch": 32}
    return StreamSpec(**given | changes)  # pyright: ignore[reportArgumentType]  by **


def drawn(spec: StreamSpec, steps: Sequence[int], world: int = 1) -> tuple[np.ndarray, np.ndarray]:
    order = order_of(spec)
    parts = [
        rank_draws(order, step, rank=rank, world_size=world)
        for step in steps
        for rank in range(world)
    ]
    return np.concatenate([p.position for p in parts]), np.concatenate([p.visit for p in parts])


def test_a_mixture_has_all_samples_with_the_classes_of_their_names(
    mixture: Dataset, letters: Dataset, digits: Dataset
) -> None:
    assert mixture.classes == ("3", "a", "0", "1", "2", "4", "5", "6", "7", "8", "9")
    assert [member.name for member in mixture.mixed_from] == ["letters", "packed"]
    assert load_dataset(mixture.uri) == mixture
    for split in ("train", "val"):
        found, wanted = [], []
        for dataset, into in ((mixture, found), (letters, wanted), (digits, wanted)):
            index, store = load_index(dataset, split), dataset.shard_store()
            for raw in read_samples(store, index, np.arange(len(index))):
                into.append((raw.data, dataset.classes[index.labels[raw.request]]))
        assert found == wanted
    assert verify(mixture) == ()


def test_a_mixture_is_named_by_its_content(
    mixture: Dataset, letters: Dataset, digits: Dataset, tmp_path: Path
) -> None:
    for dataset, name in ((letters, "one"), (digits, "two")):
        shutil.copytree(dataset.uri, tmp_path / name)
    names = [str(tmp_path / name) for name in ("one", "two")]
    elsewhere = mix_datasets(names, str(tmp_path / "both"))
    assert elsewhere.digest == mixture.digest
    assert elsewhere.shards_at == str(tmp_path)
    assert mix_datasets(names[::-1], str(tmp_path / "turned")).digest != mixture.digest
    shard = tmp_path / "one" / letters.shards("train")[0].name
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(BadDataset, match=f"shard one/{shard.name}"):
        check_shards(elsewhere)


def test_without_shares_a_mixture_is_any_dataset(
    mixture: Dataset, letters: Dataset, digits: Dataset
) -> None:
    order = order_of(stream(mixture))
    assert order.balanced is None
    assert order.samples == letters.samples("train") + digits.samples("train")


@pytest.mark.parametrize("selection", [Selection(), Selection(samples=500, skip=100)])
def test_shares_are_kept_in_every_epoch_and_draws_are_even(
    mixture: Dataset, selection: Selection
) -> None:
    spec = stream(mixture, shares=(1.0, 3.0), selection=selection, tail="carry", global_batch=1)
    opened = open_stream(spec, mixture.digest)
    of = member_of(mixture.mixed_from, "train", opened.index.rows["shard"])
    of = of if opened.positions is None else of[opened.positions]
    samples = opened.samples
    first = round(samples / 4)
    times = np.zeros(samples, dtype=int)
    for epoch in range(3):
        position, visit = drawn(spec, range(epoch * samples, (epoch + 1) * samples))
        assert np.bincount(of[position]).tolist() == [first, samples - first]
        for at in np.unique(position):  # the next visits, each once
            seen = np.sort(visit[position == at])
            assert np.array_equal(seen, times[at] + np.arange(len(seen)))
            times[at] += len(seen)
        for member in (0, 1):
            assert np.ptp(times[of == member]) <= 1


def test_worker_counts_change_no_draw(mixture: Dataset) -> None:
    spec = stream(mixture, shares=(0.5, 0.5))
    whole = drawn(spec, range(40, 60))
    for world in (2, 4):
        assert np.array_equal(drawn(spec, range(40, 60), world), whole)


def test_a_share_of_nothing_leaves_a_dataset_out(mixture: Dataset, letters: Dataset) -> None:
    batch = train_batch(stream(mixture, shares=(2.0, 0.0)), 3)
    assert batch["index"].max() < letters.samples("train")
    assert {mixture.classes[label] for label in batch["label"].tolist()} == {"a", "3"}


@given(
    counts=st.lists(st.integers(0, 50), min_size=2, max_size=5).filter(any),
    shares=st.lists(st.floats(0.125, 8), min_size=5, max_size=5),
)
def test_shares_are_relative(counts: list[int], shares: list[float]) -> None:
    have, some = np.array(counts), shares[: len(counts)]
    found = member_shares(have, some)
    weights = np.where(have > 0, some, 0)
    assert (np.abs(found - have.sum() * weights / weights.sum()) < 1).all()
    assert found.sum() == have.sum()
    assert np.array_equal(found, member_shares(have, [4 * share for share in some]))


@pytest.mark.parametrize("shares", [(1.0,), (1.0, 1.0, 1.0)])
def test_there_is_a_share_for_each_dataset(mixture: Dataset, shares: tuple[float, ...]) -> None:
    with pytest.raises(BadOrder, match=r"data.shares 1.*letters, packed"):
        order_of(stream(mixture, shares=shares))


def test_shares_of_something_else_are_refused(mixture: Dataset, digits: Dataset) -> None:
    with pytest.raises(BadOrder, match="it is no mixture"):
        order_of(stream(digits, shares=(1.0, 2.0)))
    label = mixture.classes.index("9")
    with pytest.raises(BadOrder, match=r"data.shares 1 0: no dataset with a share"):
        order_of(stream(mixture, shares=(1.0, 0.0), selection=Selection(classes=(label,))))


def test_the_same_command_again_writes_nothing_and_another_is_refused(
    mixture: Dataset, letters: Dataset, digits: Dataset, tmp_path: Path
) -> None:
    both, turned = [letters.uri, digits.uri], [digits.uri, letters.uri]
    out = str(tmp_path / "both")
    first = mix_datasets(both, out)
    assert mix_datasets(both, out) == first
    with pytest.raises(DatasetExists, match="--force"):
        mix_datasets(turned, out)
    assert mix_datasets(turned, out, force=True).digest != first.digest
    assert load_dataset(out).mixed_from[0].digest == digits.digest

    copy = tmp_path / "copy"
    shutil.copytree(digits.uri, copy)
    with pytest.raises(DatasetExists, match="no mixture"):
        mix_datasets(both, str(copy), force=True)
    assert load_dataset(str(copy)).digest == digits.digest


def test_what_cannot_be_mixed_is_named(digits: Dataset, letters: Dataset, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(digits.uri, copy)
    for uris, out, said in (
        ([digits.uri], "out", "at least two"),
        ([digits.uri, str(copy)], "out", "same content"),
        ([digits.uri, letters.uri], letters.uri, "one of the datasets"),
    ):
        with pytest.raises(BadSource, match=said):
            mix_datasets(uris, str(tmp_path / out))
    assert not (tmp_path / "out").exists()


def test_datasets_of_one_bucket_are_mixed_and_of_two_places_refused(
    s3: S3Server, letters: Dataset, digits: Dataset
) -> None:
    root = s3.uri("mixing")
    names = [join(root, "sets/letters"), join(root, "others/digits")]
    for dataset, name in zip((letters, digits), names, strict=True):
        for path in Path(dataset.uri).iterdir():
            open_store(name).upload(path.name, path)
    mixed = mix_datasets(names, join(root, "both"))
    assert mixed.shards_at == root
    batch = train_batch(stream(mixed, shares=(1.0, 1.0), global_batch=64), 0)
    first = batch["index"] < letters.samples("train")
    assert 16 <= first.sum() <= 48
    with pytest.raises(BadSource, match="one bucket"):
        mix_datasets([names[0], digits.uri], join(root, "none"))
