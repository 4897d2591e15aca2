"""Workers of an evaluation or a prediction, on the cluster that this process is connected to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import ray
from torch import Tensor

from cluster.placement import decoding_selector
from cluster.scaling import check_room, worker_cpus
from cluster.settings import Place
from pipelines.inference.network import Network
from vit import Config


@dataclass(frozen=True, kw_only=True)
class InferenceWorkers:
    """What each worker holds, and where images are decoded."""

    place: Place
    cpus: float
    """CPUs of a worker."""
    nodes: dict[str, str] | None
    """Ray's label selector for the nodes that decode."""

    def options(self, *, blocks: int | None = None) -> dict[str, Any]:
        """Return the arguments of Ray Data's `map_batches` for an actor with a network.

        Of `blocks` blocks in all no more actors are started than there are blocks.
        """
        workers = self.place.workers
        most = workers.most if blocks is None else min(workers.most, blocks)
        fewest = min(workers.fewest, most)
        return {
            "batch_size": None,
            "batch_format": "numpy",
            "num_cpus": self.cpus,
            "num_gpus": workers.gpus or None,
            "concurrency": most if fewest == most else (fewest, most),
        }


def inference_workers(place: Place) -> InferenceWorkers:
    """Decide what workers hold. Raises BadPlace if the cluster has no room for them."""
    have, workers = ray.cluster_resources(), place.workers
    cpus = worker_cpus(workers, most=workers.most, cluster_cpus=have.get("CPU", 0.0))
    if not place.wait_for_nodes:
        check_room(
            fewest=workers.fewest,
            cpus=cpus,
            gpus=workers.gpus_each,
            decode_cpus=place.decode_cpus,
            have_cpus=have.get("CPU", 0.0),
            have_gpus=have.get("GPU", 0.0),
        )
    nodes = decoding_selector(
        ray.nodes(),
        on_gpu_nodes=place.decode_on_gpu_nodes,
        more_to_come=place.wait_for_nodes,
    )
    return InferenceWorkers(place=place, cpus=cpus, nodes=nodes)


def share_weights(tensors: Mapping[str, Tensor]) -> Any:
    """Put weights into Ray's object store, once for all workers; return the reference."""
    return ray.put({name: tensor.numpy() for name, tensor in tensors.items()})


def network_of_actor(
    config: Config, weights: Any, precision: Literal["float32", "bfloat16"]
) -> Network:
    """Make the network of an actor, on the GPU that it holds if any; `weights` is a reference."""
    arrays: Any = ray.get(weights)
    return Network(config, arrays, precision, device="cuda" if ray.get_gpu_ids() else "cpu")
