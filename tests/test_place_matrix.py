"""What the place changes: the table of docs/reliability.md, its columns crossed, without Ray.

A step's samples, pixels, augmentation and masks are computed for every worker count, micro-batch,
size of a decoding task and cache, and compared with those of one process that does it all at once.
The weights at the end are compared in tests/cluster/test_place.py (slow).
"""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.batching import plan_batch
from cluster.settings import Place, Zero
from storage.augment import AugmentConfig
from storage.cache import Cache
from storage.columns import Opened, StreamSpec, columns, open_stream
from storage.dataset import load_dataset
from storage.decode import Crop
from storage.index import load_index
from storage.order import rank_batch
from storage.pack import pack
from storage.pack.png import png
from storage.pack.source import Sample, Source
from vit import mix_pairs, normalize, one_hot, sample_keys

ROOT = Path(__file__).parents[1]
GLOBAL_BATCH, SIDE = 48, 12
STEPS = (0, 5)  # in the first epoch and in the second
WORLDS = (1, 2, 3, 4, 8)
MICROS = (2, 6, 48)
TASK_ROWS = (2, 6, 1000)
CONFIG = AugmentConfig(randaugment_layers=2, mixup=0.2, cutmix=0.5, random_erasing=0.3)


class Noise(Source):
    """Images of noise, in ten classes."""

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple("0123456789")

    @property
    def splits(self) -> dict[str, int]:
        return {"train": 4 * GLOBAL_BATCH}

    def read(self, split: str, i: int) -> Sample:
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        return Sample(key=f"{i:04d}", suffix="png", data=png(pixels), label=i % 10)

    def identity(self) -> str:
        return "noise"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small dataset. One image of the first step is damaged: another takes its place."""
    uri = str(tmp_path_factory.mktemp("place") / "noise")
    row = load_index(pack(Noise(), uri), "train").rows[_damaged(uri)]
    shard = Path(uri) / load_dataset(uri).shards("train")[int(row["shard"])].name
    data = bytearray(shard.read_bytes())
    data[int(row["offset"]) + int(row["size"]) // 2] ^= 1
    shard.write_bytes(data)
    return uri


def _damaged(uri: str) -> int:
    """Position of the image that is damaged."""
    return int(rank_batch(opened(uri).order, STEPS[0], rank=0, world_size=1)[1][5])


def opened(uri: str, cache: Cache | None = None) -> Opened:
    spec = StreamSpec(
        dataset=uri,
        crop=Crop(image_size=SIDE),
        augment=CONFIG,
        seed=3,
        global_batch=GLOBAL_BATCH,
    )
    return open_stream(spec, load_dataset(uri).digest, cache)


def share(
    stream: Opened, step: int, rank: int, world: int, task_rows: int
) -> dict[str, np.ndarray]:
    """A rank's columns of a step, read and decoded by tasks of so many rows."""
    epoch, chosen = rank_batch(stream.order, step, rank=rank, world_size=world)
    cuts = range(task_rows, len(chosen), task_rows)
    parts = [
        columns(stream, some, of, replace=True) | {"epoch": of}
        for some, of in zip(np.split(chosen, cuts), np.split(epoch, cuts), strict=True)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def whole(stream: Opened, step: int, world: int, task_rows: int) -> dict[str, np.ndarray]:
    """All ranks' shares, in the order of the ranks."""
    parts = [share(stream, step, rank, world, task_rows) for rank in range(world)]
    names = ("image", "label", "index", "quarantined", "epoch", "mix")
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


@pytest.mark.parametrize("task_rows", TASK_ROWS)
@pytest.mark.parametrize("world", WORLDS)
def test_samples_and_pixels_are_the_same_bits(
    dataset: str, tmp_path: Path, world: int, task_rows: int
) -> None:
    """Wherever they are decoded, how many at once, for however many workers, from disk or cache."""
    cached = (world + task_rows) % 2
    place = opened(dataset, Cache(folder=str(tmp_path), bytes=1 << 30) if cached else None)
    found = {step: whole(place, step, world, task_rows) for step in STEPS}
    assert (found[STEPS[0]]["quarantined"] >= 0).sum() == 1
    for step, batch in found.items():
        expected = whole(opened(dataset), step, 1, GLOBAL_BATCH)
        for name, column in expected.items():
            assert np.array_equal(batch[name], column), (step, name)


@pytest.mark.parametrize("micro", MICROS)
@pytest.mark.parametrize("world", WORLDS)
def test_augmentation_and_masks_are_those_of_the_sample(
    dataset: str, world: int, micro: int
) -> None:
    plan = plan_batch(GLOBAL_BATCH, workers=world, max_micro_batch=micro, even=True)
    batch = whole(opened(dataset), STEPS[1], 1, GLOBAL_BATCH)

    def augmented(rows: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        index, epoch = (torch.from_numpy(batch[name][rows]) for name in ("index", "epoch"))
        images, targets = mix_pairs(
            normalize(torch.from_numpy(batch["image"][rows])),
            one_hot(torch.from_numpy(batch["label"][rows]), 10),
            torch.from_numpy(batch["mix"][rows]),
        )  # [m, 3, H, W], [m, classes]
        keys = sample_keys(seed=5, step=STEPS[1], epoch=epoch, index=index)
        return images, targets, keys

    starts = range(0, GLOBAL_BATCH, plan.micro)
    parts = [augmented(slice(start, start + plan.micro)) for start in starts]
    for part, expected in zip(zip(*parts, strict=True), augmented(slice(None)), strict=True):
        assert torch.equal(torch.cat(part), expected)


def test_every_setting_of_the_place_is_in_the_table() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    table = page[page.index("## What the place changes") :].split("\n\n")[2]
    first = [row.split("|")[1] for row in table.splitlines()[2:]]
    named = [name for cell in first for name in re.findall(r"`([\w.]+)`", cell)]
    zero = {f"zero.{field.name}" for field in fields(Zero)}
    settings = {field.name for field in fields(Place)} - {"zero", "recipe"} | zero
    assert set(named) == settings  # recipe: what is trained when no other is named
