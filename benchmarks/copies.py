"""What it costs to move an image's pixels from the decoder to the trainer, copy by copy.

    python -m benchmarks.copies                              generated photographs
    python -m benchmarks.copies --shards 'DIR/train-*.tar'   any WebDataset tars

Prints processor time an image of each copy that the stream makes, beside that of reading and
decoding. Blocks are those of training: 128 random crops of 224 pixels. Median of the rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from glob import glob
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import ray
import torch
from ray.data.block import BlockAccessor

from benchmarks.photographs import write_shards
from pipelines.cli.ray_session import ray_session
from storage import pixels
from storage.blocks import train_batch
from storage.columns import StreamSpec
from storage.decode import Crop
from storage.pack.tars import index_tars

ROWS = 128


@contextmanager
def crops_seen() -> Iterator[list[np.ndarray]]:
    """Collect the part of each decoded image that is resized, as a view."""
    seen: list[np.ndarray] = []
    resize = pixels._resize

    def noted(image: np.ndarray, box: pixels.Box, *rest: Any) -> np.ndarray:
        left, upper, right, lower = map(int, box)
        seen.append(image[upper:lower, left:right])
        return resize(image, box, *rest)

    with mock.patch.object(pixels, "_resize", noted):
        yield seen


def microseconds(work: Callable[[], object]) -> float:
    """Processor time of this process for one image of a block."""
    began = time.process_time()
    work()
    return (time.process_time() - began) / ROWS * 1e6


def measure(spec: StreamSpec, step: int) -> dict[str, float]:
    """Microseconds an image by what is done, for the batch of one step."""
    with crops_seen() as crops:
        batch = train_batch(spec, step)
    flips = [torch.from_numpy(image.copy())[None].permute(0, 3, 1, 2) for image in batch["image"]]
    block = np.empty_like(batch["image"])

    def rows() -> None:
        for row, image in enumerate(batch["image"]):
            block[row] = image

    table = BlockAccessor.batch_to_block(batch)
    reference = ray.put(table)
    found: Any = BlockAccessor.for_block(ray.get(reference)).to_numpy(["image"])
    assert not found["image"].flags.owndata, "what comes out of the store is no view"
    return {
        "read, check, decode, crop, resize": microseconds(lambda: train_batch(spec, step)),
        "of it: the crop, contiguous for the resize": microseconds(
            lambda: [each.copy() for each in crops]
        ),
        "of it: mirrored (half of the images)": microseconds(
            lambda: [each.flip(3) for each in flips[::2]]
        ),
        "of it: into its row of the block": microseconds(rows),
        "block to Arrow": microseconds(lambda: BlockAccessor.batch_to_block(batch)),
        "into the object store": microseconds(lambda: ray.put(table)),
        "out of the object store": microseconds(
            lambda: BlockAccessor.for_block(ray.get(reference)).to_numpy()
        ),
        "to a tensor, or page-locked memory": microseconds(
            lambda: torch.from_numpy(found["image"].copy())
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shards", help="tars to read; a pattern in quotes")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as name, ray_session(verbose=False, num_cpus=1):
        folder = Path(name)
        if options.shards is None:
            write_shards(folder, images=4 * ROWS)
        for shard in glob(options.shards or ""):
            (folder / Path(shard).name).symlink_to(Path(shard).absolute())
        index_tars(name, {"train": ["*.tar"]})
        spec = StreamSpec(dataset=name, crop=Crop(image_size=224), global_batch=ROWS)
        step = partial(measure, spec)
        step(0)  # warm
        rounds = [step(number) for number in range(options.rounds)]
    for name in rounds[0]:
        costs = [each[name] for each in rounds]
        spread = f"({min(costs):,.0f} to {max(costs):,.0f})"
        print(f"{name:<45} {statistics.median(costs):>8,.0f} us {spread}")


if __name__ == "__main__":
    main()
