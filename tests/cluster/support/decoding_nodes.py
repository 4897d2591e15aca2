"""A head without CPUs, two nodes with (pretended) GPUs, a node without: who trains, who decodes.

python -m tests.cluster.support.decoding_nodes DATASET FOLDER      prints what was seen as JSON

The second GPU node comes late: until then one of two workers would fit.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # 30 are few on a busy machine

import ray  # reads the environment above
import ray.train
from ray._private.internal_api import node_stats
from ray.cluster_utils import Cluster
from ray.data import Dataset
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util import placement_group_table

from cluster.placement import ROLE, TRAINS
from cluster.settings import Place
from pipelines.recipes.digits import PRETRAIN
from pipelines.recipes.streams import train_spec, val_spec
from pipelines.worker.background import Background
from pipelines.worker.feed import TRAIN, OrderedDataConfig, placeholder
from storage.columns import Batch, order_of
from storage.order import rank_batch
from storage.selection import EVERYTHING

HEAD = {"num_cpus": 0, "include_dashboard": False}
STEPS, SIDE = 60, 64
STAGE = replace(
    PRETRAIN,
    model=replace(PRETRAIN.model, image_size=SIDE),
    data=replace(PRETRAIN.data, selection=EVERYTHING),  # the order's positions are the split's
    steps=STEPS,
    eval_every_steps=0,
)


class Marked(OrderedDataConfig):
    """The real streams, with the node that made a block beside it."""

    def _stream(self, name: str, world_size: int) -> Callable[[range], Dataset]:
        stream = super()._stream(name, world_size)
        return lambda ranks: stream(ranks).map_batches(
            _with_node,  # pyright: ignore[reportArgumentType]  Ray's type knows no columns
            batch_size=None,
            batch_format="numpy",
            num_cpus=0.5,  # as decoding, so that Ray fuses them
        )


def _with_node(batch: Batch) -> Batch:
    node = ray.get_runtime_context().get_node_id()
    return {**batch, "node": np.full(len(batch["step"]), node)}


def consume(config: dict[str, Any]) -> None:
    """A worker that looks at its batches and trains nothing."""
    rank = ray.train.get_context().get_world_rank()
    note = Path(config["folder"]) / f"rank-{rank}.json"
    note.write_text("{}")
    order = order_of(train_spec(STAGE, config["dataset"]))
    rows, made = STAGE.global_batch // 2, []
    shard: Any = ray.train.get_dataset_shard(TRAIN)
    for step, found in enumerate(shard.iter_batches(batch_size=rows, batch_format="numpy")):
        wanted = rank_batch(order, step, rank=rank, world_size=2)[1]
        assert sorted(found["index"]) == sorted(wanted), step
        made += [str(node) for node in set(found["node"])]
    own = ray.get_runtime_context().get_node_id()
    note.write_text(json.dumps({"own": own, "made": made}))


def main(dataset: str, folder: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args=HEAD)
    gpu_node = {"num_cpus": 2, "num_gpus": 1, "labels": {ROLE: TRAINS}}
    nodes = {"head": cluster.head_node, "cpu": cluster.add_node(num_cpus=2)}
    nodes["gpu"] = cluster.add_node(**gpu_node)
    cluster.wait_for_nodes()
    ray.init(cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    trainer = DataParallelTrainer(
        consume,
        train_loop_config={"folder": folder, "dataset": dataset},
        scaling_config=ScalingConfig(
            num_workers=2, use_gpu=True, resources_per_worker={"CPU": 1, "GPU": 1}
        ),
        run_config=RunConfig(storage_path=folder, name="placement"),
        datasets={TRAIN: placeholder},
        dataset_config=Marked(
            train_spec(STAGE, dataset),
            val_spec(STAGE, dataset),
            Place(),
            steps=STEPS,
            attempt_uri=f"{folder}/attempt",
        ),
    )
    fit = Background(trainer.fit)
    deadline = time.monotonic() + 240
    while not any(each["state"] == "PENDING" for each in placement_group_table().values()):
        assert time.monotonic() < deadline, placement_group_table()
        time.sleep(0.5)
    time.sleep(5)  # time enough to start one worker
    alone = {
        "groups": [each["state"] for each in placement_group_table().values()],
        "started": [path.name for path in Path(folder).glob("rank-*.json")],
        "free_gpus": ray.available_resources().get("GPU"),
    }
    nodes["late gpu"] = cluster.add_node(**gpu_node)
    fit.result()
    names = {node.node_id: name for name, node in nodes.items() if node}
    ranks = [json.loads((Path(folder) / f"rank-{rank}.json").read_text()) for rank in range(2)]
    print(
        json.dumps(
            {
                "alone": alone,
                "workers": sorted(names[rank["own"]] for rank in ranks),
                "decoded": sorted({names[node] for rank in ranks for node in rank["made"]}),
                "batches": sum(len(rank["made"]) for rank in ranks),
                "created": {names[each["NodeID"]]: _created(each) for each in ray.nodes()},
            }
        )
    )
    ray.shutdown()
    cluster.shutdown()


def _created(node: dict[str, Any]) -> int:
    """Bytes of objects that were ever put into a node's store."""
    stats: Any = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False)
    return int(stats.store_stats.cumulative_created_bytes)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
