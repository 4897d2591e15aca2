"""The weights a stage starts from: a committed stage's, or a public checkpoint; adapted by name."""

from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from pipelines.recipes.errors import Mistake
from storage import weights
from storage.objects import open_store
from storage.uri import join
from vit import Config, adapt_state_dict, config_from_dict, import_checkpoint

FILES = (".npz", ".safetensors", ".pt", ".pth", ".bin")


def start_weights(
    uri: str, config: Config, *, image_size: int | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Weights that fit `config`, and a line for each thing that was changed.

    Args:
        uri: a stage's attempt, or a checkpoint that `vit.import_checkpoint` knows: a file or a
            folder, local or on S3.
        config: the model they go into.
        image_size: the checkpoint's resolution, where neither its files nor `config` say.

    Raises:
        Mistake: there is nothing, or it does not fit; names the place and the tensors.
    """
    is_file = uri.endswith(FILES)
    if not is_file and weights.read_manifest(uri) is not None:
        found, manifest = weights.read_weights(uri)
        return adapt_state_dict(found, config_from_dict(manifest["stage"]["model"]), config)
    with TemporaryDirectory(prefix="vit-on-ray-init-") as folder:
        local = _fetched(uri, Path(folder), is_file=is_file)
        return import_checkpoint(local, config, source_image_size=image_size)


def _fetched(uri: str, folder: Path, *, is_file: bool) -> Path:
    """A local path of the checkpoint; objects on S3 are downloaded."""
    if "://" not in uri:
        if not Path(uri).exists():
            raise Mistake(f"init {uri}: no such file or folder - give a checkpoint or an attempt")
        return Path(uri)
    place, _, name = uri.rpartition("/")
    store = open_store(place if is_file else uri)
    keys = [name] if is_file else [key for key in store.list() if "/" not in key]
    if not keys:
        raise Mistake(f"init {join(uri)}: nothing lies there - give a checkpoint or an attempt")
    for key in keys:
        store.download(key, folder / key)
    return folder / name if is_file else folder


def init_place(init: str | None) -> str | None:
    """Where `init` lies, absolute: workers have working directories of their own."""
    return str(Path(init).absolute()) if init and "://" not in init else init
