"""Compute answers and features of a split's images on Ray, the same for any number of workers.

Batch k always has the same rows, padded at the end, and a worker uses one CPU thread or one GPU. So
the arithmetic is the same on every worker. Rows are returned in the order of the split.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray
import torch

from cluster.placement import decoding_selector
from cluster.precision import set_arithmetic
from cluster.scaling import check_room, worker_cpus
from cluster.settings import Place
from pipelines.cli.place import shard_cache
from pipelines.evaluation.answers import answer
from pipelines.evaluation.protocol import Protocol
from storage.columns import describe
from storage.dataset import load_dataset
from storage.errors import BadInput
from storage.stream import StreamSpec, eval_stream, order_of
from vit import Config, build_model, normalize

Columns = dict[str, np.ndarray]
_NAMED = 5  # damaged samples that are shown


class Forward:
    """The model of an actor; called with batches of the stream.

    Args:
        config: the model.
        weights: reference to its tensors, as arrays by name.
        precision: of the arithmetic.
        answers: return the outputs of the head.
        features: return the inputs of the head.
    """

    def __init__(
        self, config: Config, weights: Any, precision: str, *, answers: bool, features: bool
    ) -> None:
        torch.set_num_threads(1)  # the number of threads would change the last bits
        torch.backends.cudnn.deterministic = True
        set_arithmetic("bfloat16" if precision == "bfloat16" else "float32")
        self.device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        self.dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.answers, self.features = answers, features
        model = build_model(config)
        arrays: Any = ray.get(weights)
        model.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
        self.model = model.to(self.device, self.dtype).eval()

    @torch.inference_mode()
    def __call__(self, batch: Columns) -> Columns:
        """Return columns index, label, quarantined and the requested ones, for the same rows."""
        images = normalize(torch.tensor(batch["image"]).to(self.device)).to(self.dtype)
        columns = {name: batch[name] for name in ("index", "label", "quarantined")}
        tokens = self.model.forward_features(images)
        features = self.model.forward_head(tokens, pre_logits=True)  # [b, D]
        if self.features:
            columns["features"] = features.float().cpu().numpy()
        if self.answers:
            logits = self.model.head(features).float()  # [b, C]
            columns |= answer(logits, torch.tensor(batch["label"]).to(self.device))
        return columns


class Extraction:
    """The network on a cluster, for one stream after another."""

    def __init__(
        self,
        config: Config,
        tensors: Mapping[str, torch.Tensor],
        protocol: Protocol,
        place: Place,
        note: Callable[[str], None],
    ) -> None:
        have = ray.cluster_resources()
        workers = place.workers
        self.config, self.protocol, self.place, self.note = config, protocol, place, note
        self.cpus = worker_cpus(workers, most=workers.max, cluster_cpus=have.get("CPU", 0.0))
        if not place.wait_for_nodes:
            check_room(
                fewest=workers.min,
                cpus=self.cpus,
                gpus=workers.gpus_each,
                decode_cpus=place.decode_cpus,
                have_cpus=have.get("CPU", 0.0),
                have_gpus=have.get("GPU", 0.0),
            )
        self.nodes = decoding_selector(
            ray.nodes(),
            on_gpu_nodes=place.decode_on_gpu_nodes,
            more_to_come=place.wait_for_nodes,
        )
        self.weights = ray.put({name: tensor.numpy() for name, tensor in tensors.items()})

    def columns(self, spec: StreamSpec, *, answers: bool, features: bool) -> Columns:
        """Return rows of all usable samples of the stream, in the order of the split.

        Raises:
            BadInput: more are damaged than `max_bad_fraction` allows.
            ray.exceptions.RayError: the cluster failed.
        """
        workers, place = self.place.workers, self.place
        stream = eval_stream(
            spec,
            world_size=1,
            num_cpus=place.decode_cpus,
            rows_per_block=spec.global_batch,  # a block is a batch
            cache=shard_cache(place.cache),
            nodes=self.nodes,
        )
        forward: Any = Forward  # Ray's type for classes leaves out their arguments
        outputs = stream.map_batches(
            forward,
            fn_constructor_args=(self.config, self.weights, self.protocol.precision),
            fn_constructor_kwargs={"answers": answers, "features": features},
            batch_size=None,
            batch_format="numpy",
            num_cpus=self.cpus,
            num_gpus=workers.gpus or None,
            concurrency=workers.max if workers.min == workers.max else (workers.min, workers.max),
        )
        parts: list[Columns] = []
        damaged: list[int] = []
        batches: Any = outputs.iter_batches(
            batch_size=None, batch_format="numpy", prefetch_batches=4
        )
        for batch in batches:
            damaged += batch["quarantined"][batch["quarantined"] >= 0].tolist()
            known = batch["index"] >= 0
            parts.append({name: column[known] for name, column in batch.items()})
        self._check_damaged(spec, damaged)
        rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        order = np.argsort(rows["index"], kind="stable")
        return {name: column[order] for name, column in rows.items() if name != "quarantined"}

    def union(self, specs: Sequence[StreamSpec]) -> Columns:
        """Return features of the samples of several streams of one split, each sample once."""
        each = [self.columns(spec, answers=False, features=True) for spec in specs]
        rows = {name: np.concatenate([part[name] for part in each]) for name in each[0]}
        _, first = np.unique(rows["index"], return_index=True)
        return {name: column[first] for name, column in rows.items()}

    def _check_damaged(self, spec: StreamSpec, damaged: list[int]) -> None:
        if not damaged:
            return
        digest, samples = load_dataset(spec.dataset).digest, order_of(spec).samples
        for position in damaged[:_NAMED]:
            self.note(f"warning: {describe(spec, digest, position)}; it is left out")
        share = self.place.max_bad_fraction
        if len(damaged) > share * samples:
            raise BadInput(
                f"{len(damaged)} of {samples} samples of {spec.dataset} ({spec.split}) cannot be"
                f" used, more than --place.max-bad-fraction {share:g} allows - pack the dataset"
                " again, or raise it"
            )


def spread(
    call: Callable[..., Any], pieces: Sequence[Any], shared: tuple[Any, ...], *, gpus: int = 0
) -> list[Any]:
    """Call for each piece, as tasks of one CPU thread: results in the order of the pieces."""
    task: Any = ray.remote(num_cpus=1, num_gpus=gpus)(_alone)
    common = [ray.put(array) for array in shared]
    return ray.get([task.remote(call, piece, *common) for piece in pieces])


def _alone(call: Callable[..., Any], *arguments: Any) -> Any:
    torch.set_num_threads(1)
    return call(*arguments)
