"""Few-shot accuracy of committed weights, measured by one Ray task per network, kept in the run.

Of the training split only the drawn images are read. If one cannot be read, another of its class is
drawn. Each result is a small file, named by the checksum of weights, task and dataset.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import ray
import torch

from cluster.precision import set_arithmetic
from cluster.settings import Place
from pipelines.campaigns.studies.study import FewShotTask
from pipelines.cli.ray_session import ray_session
from pipelines.evaluation.fewshot import drawn, few_shot
from pipelines.lineage.source import Source
from pipelines.recipes.data import Data
from storage.columns import StreamSpec, columns, open_stream
from storage.dataset import load_dataset
from storage.index import load_index
from storage.objects import open_store
from storage.selection import Selection
from storage.uri import join
from vit import normalize
from vit.model import ViT
from vit.resnet import BiT

FOLDER = "few_shot"
_ROWS = 128  # images at once


def few_shot_of(
    sources: Mapping[str, Source], task: FewShotTask, place: Place, *, run: str
) -> dict[str, dict[str, float]]:
    """Return metrics (`few_shot/5`, `few_shot/5_spread`, ...) of some stages' weights.

    Args:
        sources: name -> weights that a stage committed.
        task: dataset, shots, seeds.
        place: deployment settings; a task gets as many GPUs as a worker.
        run: the run whose folder keeps the results.
    """
    dataset = load_dataset(join(place.data_root, task.dataset))
    store = open_store(join(place.storage_root, run, FOLDER))
    keys = {name: result_key(each, task, dataset.digest) for name, each in sources.items()}
    missing = {name: each for name, each in sources.items() if not store.exists(keys[name])}
    if missing:
        with ray_session(verbose=place.verbose):
            have = ray.cluster_resources().get("GPU", 0.0)
            gpus = int(have > 0) if place.workers.gpus is None else place.workers.gpus
            remote = ray.remote(num_cpus=1, num_gpus=gpus)(measure)
            results = {
                name: remote.remote(each, dataset.uri, dataset.digest, task)
                for name, each in missing.items()
            }
            for name, reference in results.items():
                metrics = ray.get(reference)
                store.write(keys[name], json.dumps(metrics, indent=1).encode())
                print(f"{name}: {_summary(metrics, task)}", flush=True)
    return {name: json.loads(store.read(key)) for name, key in keys.items()}


def measure(source: Source, dataset_uri: str, digest: str, task: FewShotTask) -> dict[str, float]:
    """Compute features of one network and the regression on them, in this process."""
    model = source.model()
    set_arithmetic("float32")
    # Ask Ray, not torch, or tasks without a GPU would all share one.
    model.to("cuda" if ray.is_initialized() and ray.get_gpu_ids() else "cpu")
    size = source.committed.config().image_size
    assert isinstance(size, int)
    crop = source.committed.data().val_crop(size)
    splits = Data()
    dataset = load_dataset(dataset_uri)
    labels = np.asarray(load_index(dataset, splits.train_split).labels, dtype=np.int64)  # [N]

    def spec(split: str, selection: Selection) -> StreamSpec:
        return StreamSpec(
            dataset=dataset_uri,
            split=split,
            selection=selection,
            crop=crop,
            global_batch=1,
            tail="carry",
        )

    train_spec = spec(splits.train_split, Selection())
    usable = np.arange(len(labels))
    while True:  # repeats if a drawn image cannot be read
        draws = [drawn(labels[usable], usable, seed).first(max(task.shots)) for seed in task.seeds]
        support = usable[np.unique(np.concatenate(draws))]
        train, readable = features(model, train_spec, digest, support)
        if readable.all():
            break
        usable = np.setdiff1d(usable, support[~readable])
    test_spec = spec(splits.val_split, Selection(samples=task.test_samples))
    test_labels = np.asarray(open_stream(test_spec, digest).labels, dtype=np.int64)  # [M]
    test, readable = features(model, test_spec, digest, np.arange(len(test_labels)))
    result = few_shot(
        train,
        labels[support],
        test[readable],
        test_labels[readable],
        num_classes=len(dataset.classes),
        train_index=support,
        shots=task.shots,
        seeds=task.seeds,
    )
    left_out = len(labels) - len(usable) + int((~readable).sum())
    return dict(result.metrics()) | {"few_shot/left_out": float(left_out)}


@torch.no_grad()
def features(
    model: ViT | BiT, spec: StreamSpec, digest: str, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return pre-logits of chosen samples [n], float32 [n, D], and which are readable [n].

    Rows of unreadable samples are meaningless.
    """
    opened = open_stream(spec, digest)
    device = next(model.parameters()).device
    batches, readable = [], []
    for start in range(0, len(chosen), _ROWS):
        rows = chosen[start : start + _ROWS]
        read = columns(opened, rows, np.zeros_like(rows), replace=False)
        readable.append(read["index"] >= 0)
        batch = normalize(torch.from_numpy(read["image"]).to(device))  # [b, 3, H, W]
        batches.append(model.forward_head(model.forward_features(batch), pre_logits=True).cpu())
    return torch.cat(batches).numpy(), np.concatenate(readable)


def result_key(source: Source, task: FewShotTask, digest: str) -> str:
    """Name the result file of committed weights, a task and a dataset's digest."""
    content = json.dumps([asdict(task), digest, source.digest()], sort_keys=True)
    short = hashlib.sha256(content.encode()).hexdigest()[:12]
    return f"{source.name}-{short}.json"


def _summary(metrics: Mapping[str, float], task: FewShotTask) -> str:
    text = ", ".join(f"{shots}-shot {metrics[f'few_shot/{shots}']:.4f}" for shots in task.shots)
    left_out = int(metrics["few_shot/left_out"])
    return f"{text}; {left_out} images cannot be read and are left out" if left_out else text
