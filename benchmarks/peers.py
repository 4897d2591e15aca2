"""Loaders of others that are no dependency of this project: contenders of `benchmarks/ingest.py`.

They are found if they are installed, with our decode and crops. Into a folder of their own, so that
nothing of the project changes:

    pip install --target PEERS --no-deps megatron-energon spdl spdl-core spdl-io ...
    PYTHONPATH=PEERS:. python -m benchmarks.ingest

energon also needs multi-storage-client, rapidyaml, mfusepy, filetype and what these import; spdl's
own decoder needs a shared FFmpeg, its pipeline, which is measured here, nothing.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loaders import Source, our_decode
from storage.dataset import load_dataset
from storage.index import load_index
from storage.objects import open_store
from storage.reader import read_samples
from storage.uri import parse

PACKAGES = {"energon": "megatron.energon", "spdl": "spdl.pipeline"}


def installed(name: str) -> bool:
    """Whether a contender can run here; those of the project can."""
    package = PACKAGES.get(name)
    if package is None:
        return True
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # not even its first part
        return False


def spdl(source: Source) -> Iterator[int]:
    """SPDL's pipeline: one thread reads batches, `cpus` threads decode, as it is meant."""
    from spdl.pipeline import PipelineBuilder  # type: ignore[import-not-found]

    dataset = load_dataset(source.uri)
    index, store = load_index(dataset, "train"), open_store(source.uri)
    random = np.random.default_rng(0)

    def positions() -> Iterator[np.ndarray]:
        for _ in range(source.steps):
            yield np.sort(random.integers(0, len(index), source.batch))

    def read(some: np.ndarray) -> list[dict[str, Any]]:
        return [
            {"jpg": raw.data, "cls": index.labels[some[raw.request]], "__key__": raw.key}
            for raw in read_samples(store, index, some)
        ]

    def stack(rows: list[tuple[np.ndarray, int]]) -> int:
        return len(np.stack([image for image, _ in rows]))

    executor = ThreadPoolExecutor(source.cpus)
    pipeline = (
        PipelineBuilder()
        .add_source(positions())
        .pipe(read)
        .disaggregate()
        .pipe(
            lambda sample: our_decode(sample, source.crop),
            concurrency=source.cpus,
            executor=executor,
        )
        .aggregate(source.batch)
        .pipe(stack)
        .add_sink(4)
        .build(num_threads=2)
    )
    with executor, pipeline.auto_stop():
        yield from pipeline


def energon(source: Source) -> Iterator[int]:
    """Energon's loader on a crude dataset, `cpus` worker processes. Local tars only."""
    from megatron import energon as peer  # type: ignore[import-not-found]

    assert parse(source.uri).bucket is None, "energon is measured on local tars"
    prepare(Path(source.uri))

    @peer.stateless  # the same sample gives the same image
    def cook(raw: dict[str, Any]) -> Any:
        image, label = our_decode(raw, source.crop)
        keys = peer.basic_sample_keys(raw)
        return peer.ImageClassificationSample(**keys, image=image, label=label)

    class Images(peer.TaskEncoder):
        """Decode in the worker processes."""

        decoder = None
        cookers = [peer.Cooker(cook)]  # noqa: RUF012

        def batch(self, samples: list[Any]) -> Any:
            return len(np.stack([sample.image for sample in samples]))

    workers = peer.WorkerConfig(rank=0, world_size=1, num_workers=source.cpus)
    data = peer.get_train_dataset(
        source.uri,
        worker_config=workers,
        batch_size=source.batch,
        shuffle_buffer_size=1000 // source.cpus,
        max_samples_per_sequence=100,
        task_encoder=Images(),
    )
    rest = iter(peer.get_loader(data))
    for _ in range(source.steps):
        yield next(rest)


def prepare(folder: Path) -> None:
    """Write energon's description and index of the tars beside them, once."""
    from megatron.energon.flavors.webdataset.prepare import (  # type: ignore[import-not-found]
        WebdatasetPreparator,
    )

    description = folder / ".nv-meta" / "dataset.yaml"
    if description.exists():
        return
    WebdatasetPreparator.prepare_dataset(
        folder,
        sorted(path.name for path in folder.glob("*.tar")),
        split_parts_ratio=[("train", 1.0)],
        workers=2,
    )
    description.write_text("__module__: megatron.energon\n__class__: CrudeWebdataset\n")
