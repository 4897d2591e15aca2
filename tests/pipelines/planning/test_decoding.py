"""The CPUs that a plan counts on for decoding are those that may decode."""

from dataclasses import replace

import pytest

from cluster.settings import Place, Workers
from pipelines.planning.estimate import estimate
from pipelines.planning.hardware import find_node_kind
from pipelines.planning.images import Images
from pipelines.recipes import find_recipe

STAGE = find_recipe("vit-b16-imagenet21k").stage("pretrain")
IMAGES = Images(train=10_000, val=100, mean_bytes=110_000, run_samples=1, source="made")


@pytest.mark.parametrize(
    ("on_gpu_nodes", "wait_for_nodes", "cpus"),
    [
        (None, False, 192 - 8),  # the nodes of the plan are all there are
        (None, True, 0),
        (True, True, 192 - 8),
        (False, False, 0),
    ],
)
def test_gpu_nodes_count_where_they_decode(
    on_gpu_nodes: bool | None, wait_for_nodes: bool, cpus: float
) -> None:
    place = Place(
        workers=Workers(gpus=1, cpus=1),
        decode_on_gpu_nodes=on_gpu_nodes,
        wait_for_nodes=wait_for_nodes,
    )
    p5 = replace(find_node_kind("p5"), nodes=1)
    assert estimate(STAGE, place, p5, IMAGES).spare_cpus == cpus
