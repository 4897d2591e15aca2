"""Deal the blocks of a stage to its ranks in turn. Up to four ranks share a stream.

`streaming_split` starts a process for a stream, its coordinator, which needs some 9 ms of a CPU to
deal a block. One for all ranks would feed no more than a dozen GPUs that train ViT-B/16
(`python -m benchmarks.dealing`).
"""

from collections.abc import Callable, Sequence
from typing import Any

from ray.data import DataIterator, Dataset

from storage.tasks import even_ranges

_RANKS = 4
"""Most ranks of a stream."""
_NODE = "ray.io/node-id"  # label that Ray gives each node


def deal(
    stream: Callable[[range], Dataset], world_size: int, nodes: Sequence[str] | None = None
) -> list[DataIterator]:
    """Return each rank's iterator over its blocks.

    `stream` makes the stream of some consecutive ranks. The coordinator of several streams runs on
    the node of its first rank, if `nodes` has the id of each rank's node, otherwise on this node.
    """
    groups = streams_of(world_size)
    placed = nodes if len(groups) > 1 else None
    splits: list[DataIterator] = []
    for ranks in groups:
        splits += _split(stream(ranks), len(ranks), placed[ranks.start] if placed else None)
    return splits


def streams_of(world_size: int) -> list[range]:
    """The ranks of each stream: as few as can be, of about equal size."""
    return even_ranges(world_size, -(-world_size // _RANKS))


def _split(stream: Dataset, ranks: int, node: str | None) -> list[DataIterator]:
    """`streaming_split` (Ray 2.60), with the coordinator on a node of our choice."""
    from ray.data._internal.iterator import stream_split_iterator as of_ray
    from ray.data._internal.logical.interfaces import LogicalPlan
    from ray.data._internal.logical.operators import StreamingSplit

    if node is None:
        return stream.streaming_split(ranks, equal=True)
    inside: Any = stream
    split = StreamingSplit(
        num_splits=ranks,
        equal=True,
        input_dependencies=[inside._logical_plan.dag],
        locality_hints=None,
    )
    dealt = inside._from_parent(stream, LogicalPlan(split, stream.context))
    start: Any = of_ray.SplitCoordinator
    coordinator = start.options(max_concurrency=ranks + 1, label_selector={_NODE: node})
    coordinator = coordinator.remote(dealt, ranks, None)
    return [of_ray.StreamSplitDataIterator(coordinator, rank, ranks) for rank in range(ranks)]
