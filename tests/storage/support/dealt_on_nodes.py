"""A head and two nodes: eight ranks have two streams, each dealt by a process on its ranks' node.

python -m tests.storage.support.dealt_on_nodes DATASET      prints what the processes' nodes were
"""

import logging
import sys
from functools import partial
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster
from ray.util.state import list_actors

from storage.columns import StreamSpec, order_of
from storage.dealing import deal
from storage.decode import Crop
from storage.order import rank_batch
from storage.stream import train_stream

RANKS, STEPS, ROWS = 8, 12, 16


def consume(split: ray.data.DataIterator) -> list[np.ndarray]:
    batches = split.iter_batches(batch_size=ROWS, batch_format="numpy")
    return [np.array(batch["index"]) for batch in batches]


def main(dataset: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    ray.init(cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    spec = StreamSpec(dataset=dataset, crop=Crop(image_size=64), global_batch=RANKS * ROWS)
    stream = partial(train_stream, spec, start_step=0, stop_step=STEPS, world_size=RANKS)
    of_ranks = [nodes[rank // 4].node_id for rank in range(RANKS)]
    splits = deal(lambda ranks: stream(ranks=ranks), RANKS, of_ranks)
    start: Any = ray.remote(num_cpus=0)(consume)
    found = ray.get([start.remote(split) for split in splits])
    order = order_of(spec)
    for rank, batches in enumerate(found):
        assert len(batches) == STEPS
        for step, index in enumerate(batches):
            planned = rank_batch(order, step, rank=rank, world_size=RANKS)[1]
            assert np.array_equal(index, planned), (rank, step)
    actors: Any = list_actors(filters=[("class_name", "=", "SplitCoordinator")])
    dealing = [actor.node_id for actor in actors]
    assert sorted(dealing) == sorted(node.node_id for node in nodes)
    print(f"{len(dealing)} processes dealt, on {len(set(dealing))} nodes")
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
