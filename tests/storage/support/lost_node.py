"""A cluster of a head and two nodes loses one of them in mid-stream, with the blocks it holds.

python -m tests.storage.support.lost_node DATASET      prints how many blocks the lost node had made
"""

import logging
import sys
import time

import numpy as np
import ray
from ray.cluster_utils import Cluster

from storage.columns import Batch, StreamSpec, order_of
from storage.decode import Crop
from storage.order import global_batch
from storage.stream import DECODE_CPUS, train_stream

STEPS, ROWS = 40, 64


def with_node(batch: Batch) -> Batch:
    time.sleep(0.05)  # so that blocks wait on both nodes when one is lost
    node = ray.get_runtime_context().get_node_id()
    return {**batch, "node": np.full(len(batch["step"]), node)}


def main(dataset: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    ray.init(cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    spec = StreamSpec(dataset=dataset, crop=Crop(image_size=64), global_batch=ROWS, tail="carry")
    stream = train_stream(spec, start_step=0, stop_step=STEPS, world_size=1, rows_per_block=ROWS)
    marked = stream.map_batches(
        with_node,  # pyright: ignore[reportArgumentType]  Ray's type knows no columns
        batch_size=None,
        batch_format="numpy",
        num_cpus=DECODE_CPUS,  # as the decoding tasks, so that Ray fuses them
    )
    (split,) = marked.streaming_split(1, equal=True)
    order, by_node, lost = order_of(spec), dict[str, int](), nodes[0].node_id
    for step, found in enumerate(split.iter_batches(batch_size=ROWS, batch_format="numpy")):
        batch = {name: np.asarray(column) for name, column in found.items()}
        assert (batch["step"] == step).all(), (step, batch["step"])
        assert np.array_equal(batch["index"], global_batch(order, step)[1]), step
        node = str(batch["node"][0])
        by_node[node] = by_node.get(node, 0) + 1
        if step == 5:
            time.sleep(2)  # blocks of both nodes wait now
            cluster.remove_node(nodes[0], allow_graceful=False)
            cluster.add_node(num_cpus=1)
    assert sum(by_node.values()) == STEPS, by_node
    assert lost in by_node, "the lost node had made nothing"
    print(f"lost node made {by_node[lost]} of {STEPS} blocks that arrived, of {len(by_node)} nodes")
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
