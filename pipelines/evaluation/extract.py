"""Compute answers and features of a split's images on Ray, the same for any number of workers.

Batch k always has the same rows, padded at the end, and a worker uses one CPU thread or one GPU. So
the arithmetic is the same on every worker. Rows are returned in the order of the split.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import ray
import torch

from cluster.settings import Place
from pipelines.cli.place import shard_cache
from pipelines.evaluation.answers import answer
from pipelines.evaluation.protocol import Protocol
from pipelines.inference.workers import inference_workers, network_of_actor, share_weights
from storage.columns import StreamSpec, describe, order_of
from storage.dataset import load_dataset
from storage.errors import BadInput
from storage.stream import eval_stream
from vit import Config

Columns = dict[str, np.ndarray]
_NAMED = 5  # damaged samples that are shown


class Forward:
    """The network of an actor; called with batches of the stream.

    Args:
        config: the model.
        weights: reference to its tensors, as arrays by name.
        precision: of the arithmetic.
        answers: return the outputs of the head.
        features: return the inputs of the head.
    """

    def __init__(
        self,
        config: Config,
        weights: Any,
        precision: Literal["float32", "bfloat16"],
        *,
        answers: bool,
        features: bool,
    ) -> None:
        self.answers, self.features = answers, features
        self.network = network_of_actor(config, weights, precision)

    def __call__(self, batch: Columns) -> Columns:
        """Return columns index, label, quarantined and the requested ones, for the same rows."""
        columns = {name: batch[name] for name in ("index", "label", "quarantined")}
        features = self.network.features(batch["image"])  # [b, D]
        if self.features:
            columns["features"] = features.float().cpu().numpy()
        if self.answers:
            logits = self.network.logits(features)  # [b, C]
            columns |= answer(logits, torch.tensor(batch["label"]).to(logits.device))
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
        self.config, self.protocol, self.place, self.note = config, protocol, place, note
        self.workers = inference_workers(place)
        self.weights = share_weights(tensors)

    def columns(self, spec: StreamSpec, *, answers: bool, features: bool) -> Columns:
        """Return rows of all usable samples of the stream, in the order of the split.

        Raises:
            BadInput: more are damaged than `max_bad_fraction` allows.
            ray.exceptions.RayError: the cluster failed.
        """
        place = self.place
        stream = eval_stream(
            spec,
            world_size=1,
            num_cpus=place.decode_cpus,
            rows_per_block=spec.global_batch,  # a block is a batch
            cache=shard_cache(place.cache),
            nodes=self.workers.nodes,
        )
        forward: Any = Forward  # Ray's type for classes leaves out their arguments
        outputs = stream.map_batches(
            forward,
            fn_constructor_args=(self.config, self.weights, self.protocol.precision),
            fn_constructor_kwargs={"answers": answers, "features": features},
            **self.workers.options(),
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
