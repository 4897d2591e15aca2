"""The loaders that `benchmarks/ingest.py` compares; each is an iterator over batch sizes."""

import io
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from zlib import crc32

import boto3.session
import numpy as np
import ray.data
import torch
from PIL import Image
from webdataset.compat import WebDataset

from storage.columns import StreamSpec
from storage.dataset import load_dataset
from storage.decode import Crop, crop_box, decode
from storage.index import load_index
from storage.objects import open_store
from storage.reader import read_samples
from storage.stream import train_stream
from storage.uri import parse

os.environ.pop("WDS_SECURE", None)  # webdataset reads from S3 through curl


@dataclass(frozen=True)
class Source:
    """What every contender reads."""

    uri: str
    batch: int
    steps: int
    image_size: int
    cpus: int
    run_samples: int | None = None
    """Neighbours that the stream reads together; None as it chooses for a set of this size."""

    @property
    def crop(self) -> Crop:
        return Crop(image_size=self.image_size)

    @property
    def spec(self) -> StreamSpec:
        """The stream over it."""
        return StreamSpec(
            dataset=self.uri,
            crop=self.crop,
            global_batch=self.batch,
            tail="carry",
            run_samples=self.run_samples,
        )

    def urls(self) -> list[str]:
        """The shards as webdataset takes them: paths, or signed URLs."""
        names = [shard.name for shard in load_dataset(self.uri).shards("train")]
        bucket = parse(self.uri).bucket
        if bucket is None:
            return [f"{self.uri}/{name}" for name in names]
        client = boto3.session.Session().client("s3")
        prefix = parse(self.uri).path
        keys = [f"{prefix}/{name}" for name in names]
        sign = partial(client.generate_presigned_url, "get_object", ExpiresIn=3600)
        return [sign(Params={"Bucket": bucket, "Key": key}) for key in keys]

    def paths(self) -> list[str]:
        """The shards as Ray takes them."""
        names = [shard.name for shard in load_dataset(self.uri).shards("train")]
        return [f"{self.uri}/{name}" for name in names]


def stream(source: Source) -> Iterator[int]:
    """The project's stream, read as a training worker does."""
    data = train_stream(source.spec, start_step=0, stop_step=source.steps, world_size=1)
    (split,) = data.streaming_split(1, equal=True)
    for batch in split.iter_batches(
        batch_size=source.batch, batch_format="numpy", prefetch_batches=2
    ):
        yield len(batch["image"])


def our_decode(sample: dict[str, Any], crop: Crop) -> tuple[np.ndarray, int]:
    index = crc32(sample["__key__"].encode())
    return decode(sample["jpg"], crop, seed=0, epoch=0, index=index), int(sample["cls"])


def pillow_decode(sample: dict[str, Any], crop: Crop) -> tuple[np.ndarray, int]:
    image = Image.open(io.BytesIO(sample["jpg"])).convert("RGB")
    index = crc32(sample["__key__"].encode())
    box, flip = crop_box(crop, *image.size, seed=0, epoch=0, index=index)
    side = (crop.image_size, crop.image_size)
    image = image.crop(box).resize(side, Image.Resampling.BICUBIC)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image), int(sample["cls"])


def data_loader(source: Source, decoding: Callable[..., tuple[np.ndarray, int]]) -> Iterator[int]:
    data = (
        WebDataset(source.urls(), resampled=True, shardshuffle=False)
        .shuffle(1000 // source.cpus)
        .map(partial(decoding, crop=source.crop))
        .batched(source.batch)
    )
    loader = torch.utils.data.DataLoader(
        data,  # pyright: ignore[reportArgumentType]  a pipeline is a dataset
        batch_size=None,
        num_workers=source.cpus,
        prefetch_factor=2,
        multiprocessing_context="spawn",
    )
    rest = iter(loader)
    for _ in range(source.steps):
        yield len(next(rest)[0])


def ray_decode(batch: dict[str, Any], crop: Crop) -> dict[str, np.ndarray]:
    rows = [
        our_decode({"jpg": jpg, "cls": label, "__key__": key}, crop)
        for jpg, label, key in zip(batch["jpg"], batch["cls"], batch["__key__"], strict=True)
    ]
    return {"image": np.stack([row[0] for row in rows]), "label": np.array([r[1] for r in rows])}


def rays_own(source: Source) -> Iterator[int]:
    filesystem = None
    if source.uri.startswith("s3://"):
        import pyarrow.fs

        filesystem = pyarrow.fs.S3FileSystem(
            endpoint_override=os.environ["AWS_ENDPOINT_URL"].removeprefix("http://"), scheme="http"
        )
    images = source.batch * source.steps
    paths = source.paths()
    once = load_dataset(source.uri).samples("train")
    paths *= -(-images // once)
    data = ray.data.read_webdataset(
        paths, decoder=None, filesystem=filesystem, override_num_blocks=len(paths)
    ).map_batches(
        ray_decode,  # pyright: ignore[reportArgumentType]  Ray's type knows no columns
        fn_kwargs={"crop": source.crop},
        batch_size=source.batch,
        batch_format="numpy",
        num_cpus=1,
    )
    rest = iter(data.iter_batches(batch_size=source.batch, batch_format="numpy"))
    for _ in range(source.steps):
        yield len(next(rest)["image"])


def decode_alone(uri: str, crop: Crop, rows: int, done: Any, stop: Any) -> None:
    torch.set_num_threads(1)
    index = load_index(load_dataset(uri), "train")
    raw = list(read_samples(open_store(uri), index, np.arange(min(len(index), 512))))
    image = np.empty((rows, crop.image_size, crop.image_size, 3), dtype=np.uint8)
    number = 0
    while not stop.is_set():
        for row in range(rows):
            sample = raw[number % len(raw)]
            image[row] = decode(sample.data, crop, seed=0, epoch=0, index=number)
            number += 1
        done.put(rows)


def limit(source: Source) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")
    done, stop = context.Queue(), context.Event()
    processes = [
        context.Process(
            target=decode_alone, args=(source.uri, source.crop, source.batch, done, stop)
        )
        for _ in range(source.cpus)
    ]
    for process in processes:
        process.start()
    try:
        for _ in range(source.steps):
            yield done.get(timeout=60)
    finally:
        stop.set()
        deadline = time.monotonic() + 20
        while any(p.is_alive() for p in processes) and time.monotonic() < deadline:
            while not done.empty():
                done.get()
            time.sleep(0.05)
        for process in processes:
            process.join(timeout=5)


CONTENDERS: dict[str, Callable[[Source], Iterator[int]]] = {
    "stream": stream,
    "webdataset": partial(data_loader, decoding=our_decode),
    "pillow": partial(data_loader, decoding=pillow_decode),
    "ray": rays_own,
    "limit": limit,
}
