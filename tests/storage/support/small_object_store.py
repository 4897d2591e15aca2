"""Four ranks hold a third of a small object store, and one CPU makes their blocks.

python -m tests.storage.support.small_object_store      exits 0 once all have come
"""

import logging
from typing import Any

import numpy as np
import ray

from storage.ahead import Ahead
from storage.columns import Batch
from storage.tasks import blocks_in_order

RANKS, BLOCKS, ROWS, SIDE = 4, 15, 64, 224
BLOCK_BYTES = ROWS * SIDE * SIDE * 3
STORE_BYTES = 40 * BLOCK_BYTES


def block(item: int) -> Batch:
    image = np.zeros((ROWS, SIDE, SIDE, 3), dtype=np.uint8)
    return {"image": image, "item": np.full(ROWS, item)}


def consume(split: ray.data.DataIterator) -> list[int]:
    batches: Any = split.iter_batches(batch_size=ROWS, batch_format="numpy", prefetch_batches=2)
    return [int(batch["item"][0]) for batch in batches]


def main() -> None:
    ray.init(
        address="local",  # not the cluster that another test started last
        num_cpus=1,
        object_store_memory=STORE_BYTES,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    ahead = Ahead(BLOCK_BYTES, consumers=RANKS)
    splits = blocks_in_order(block, BLOCKS * RANKS, 0.5, ahead=ahead).streaming_split(
        RANKS, equal=True
    )
    start: Any = ray.remote(num_cpus=0)(consume)
    found = ray.get([start.remote(split) for split in splits], timeout=120)
    assert found == [list(range(rank, BLOCKS * RANKS, RANKS)) for rank in range(RANKS)]
    ray.shutdown()


if __name__ == "__main__":
    main()
