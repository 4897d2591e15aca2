"""The weights a stage starts from: a committed stage's, or a public checkpoint; adapted by name."""

from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from pipelines.lineage.manifest import WEIGHTS, read_manifest
from pipelines.recipes.errors import Mistake
from storage import weights
from storage.objects import open_store
from storage.uri import join
from vit import Config, adapt_state_dict, checkpoint_digest, import_checkpoint
from vit.importers.files import INDEXES, SUFFIXES
from vit.importers.settings import FILES as NEIGHBOURS

FILES = (*SUFFIXES, *INDEXES)


def is_file(uri: str) -> bool:
    """Whether a path or URI names a file of weights; else it is a folder or an attempt."""
    return uri.lower().endswith(FILES)


def start_weights(
    uri: str,
    config: Config,
    *,
    image_size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    reset_head: bool = False,
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Weights that fit `config`, and a line for each thing that was changed.

    Args:
        uri: a stage's attempt, or a checkpoint that `vit.import_checkpoint` knows: a file or a
            folder, local or on S3.
        config: the model they go into.
        image_size: the checkpoint's resolution, where neither its files nor `config` say.
        mean: of the pixels that the checkpoint wants, where its files do not say.
        std: their standard deviation.
        reset_head: start with a new head, also where the one there would fit.

    Raises:
        Mistake: there is nothing, or it does not fit; names the place and the tensors.
    """
    manifest = None if is_file(uri) else read_manifest(uri)
    if manifest is not None:
        found, _ = weights.read_weights(uri)
        return adapt_state_dict(found, manifest.config(), config, reset_head=reset_head)
    with TemporaryDirectory(prefix="vit-on-ray-init-") as folder:
        return import_checkpoint(
            _fetched(uri, Path(folder)),
            config,
            source_image_size=image_size,
            mean=mean,
            std=std,
            reset_head=reset_head,
        )


def init_digest(init: str | None) -> str | None:
    """SHA-256 of the content that `init` names, wherever it lies; None where it names nothing.

    A stage is named by it, so that a checkpoint that moved is the same and a replaced one another.

    Raises:
        ValueError: there is nothing, or it cannot be read.
    """
    uri = init_place(init)
    if uri is None:
        return None
    manifest = None if is_file(uri) else read_manifest(uri)
    if manifest is not None:
        return manifest.files[WEIGHTS].sha256
    with TemporaryDirectory(prefix="vit-on-ray-init-") as folder:
        return checkpoint_digest(_fetched(uri, Path(folder)))


def _fetched(uri: str, folder: Path) -> Path:
    """A local path of the checkpoint; objects on S3 are downloaded."""
    if "://" not in uri:
        if not Path(uri).exists():
            raise Mistake(f"init {uri}: no such file or folder - give a checkpoint or an attempt")
        return Path(uri)
    place, _, name = uri.rpartition("/")
    store = open_store(place if is_file(uri) else uri)
    if is_file(uri):
        shards = store.list(f"{name.partition('.')[0]}-") if name.endswith(INDEXES) else ()
        beside = (key for key in NEIGHBOURS if store.exists(key))
        keys = [name, *(key for key in shards if is_file(key)), *beside]
    else:
        keys = [key for key in store.list() if "/" not in key]
    if not keys:
        raise Mistake(f"init {join(uri)}: nothing lies there - give a checkpoint or an attempt")
    for key in keys:
        store.download(key, folder / key)
    return folder / name if is_file(uri) else folder


def init_place(init: str | None) -> str | None:
    """Where `init` lies, absolute: workers have working directories of their own."""
    return str(Path(init).absolute()) if init and "://" not in init else init
