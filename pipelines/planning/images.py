"""Number and size of a stage's images, read from the dataset if it is packed."""

from dataclasses import dataclass, replace

from cluster.settings import Place
from pipelines.recipes.paper import IMAGES
from pipelines.recipes.stage import Stage
from pipelines.recipes.streams import train_spec, val_spec
from storage.columns import order_of
from storage.dataset import Dataset, load_dataset
from storage.errors import StorageError, Unavailable
from storage.index import load_index
from storage.order import longest_run
from storage.uri import join

PHOTOGRAPH_BYTES = 110_000.0
"""Mean size of an ImageNet-1k image as published: 138 GB, 1,281,167 images."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images of a stage: counted if the dataset is packed, else assumed."""

    train: int
    """Images per epoch, after the selection."""
    val: int
    """Images per evaluation."""
    mean_bytes: float
    """Mean size of a stored image."""
    run_samples: int
    """Neighbouring samples read by one request."""
    source: str
    """Where these numbers come from."""


def with_images(images: Images, train: int | None, mean_bytes: float | None) -> Images:
    """Replace numbers that the command line gives."""
    return replace(
        images,
        train=train or images.train,
        mean_bytes=mean_bytes or images.mean_bytes,
        source="--images, --mean-bytes" if train or mean_bytes else images.source,
    )


_LARGEST_INDEX = (
    64 << 20
)  # of an index, in bytes; a larger one is not fetched just for the length of a run


def images_of(stage: Stage, place: Place) -> Images:
    """Return the stage's images: counted in the packed dataset, else published or assumed."""
    data = stage.data
    try:
        dataset = load_dataset(join(place.data_root, data.dataset))
        return _packed(stage, dataset)
    except StorageError as error:
        known = IMAGES.get(data.dataset)
        reason = "not packed" if not isinstance(error, Unavailable) else "unreachable"
        train = known or stage.steps * stage.global_batch or 1
        assumption = "its published size" if known else "one epoch assumed, give --images"
        return Images(
            train=train,
            val=0,
            mean_bytes=PHOTOGRAPH_BYTES,
            run_samples=_run_samples(stage, train),
            source=f"{data.dataset}: {reason}; {assumption}, evaluation not counted",
        )


def _packed(stage: Stage, dataset: Dataset) -> Images:
    data = stage.data
    shards = dataset.shards(data.train_split)
    samples = dataset.samples(data.train_split)
    train, val = samples, dataset.samples(data.val_split)
    run = _run_samples(stage, max(samples, 1))
    size = sum(shard.bytes for shard in shards) / max(samples, 1)
    if dataset.indexes[data.train_split].bytes <= _LARGEST_INDEX:
        order = order_of(train_spec(stage, dataset.uri), dataset)
        train, run = order.samples, order.run_samples
        val = order_of(val_spec(stage, dataset.uri), dataset).samples
        size = float(load_index(dataset, data.train_split).rows["size"].mean())
    return Images(
        train=train,
        val=val,
        mean_bytes=size,
        run_samples=run,
        source=f"{dataset.uri}: counted",
    )


def _run_samples(stage: Stage, samples: int) -> int:
    """Neighbours read at once, where labels are unknown: as of shards shuffled when written."""
    if stage.data.balance != "none" or stage.data.shares is not None:
        return 1
    return longest_run(samples, global_batch=stage.global_batch)
