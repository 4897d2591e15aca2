"""`Source`: weights at an address, which are found, read or downloaded once.

    <storage_root>/<run>/<stage>/<attempt>    what a stage committed, with its manifest
    FILE or FOLDER, local or s3://            a public checkpoint, for `vit.import_checkpoint`
    hf://ORG/NAME, timm://NAME                the same, of the Hugging Face Hub (`lineage.hub`)

A stage begins with one, an evaluation, the pictures and the studies measure one.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from torch import Tensor

from pipelines.lineage import hub
from pipelines.lineage.manifest import WEIGHTS, Manifest, read_manifest
from pipelines.recipes.errors import Mistake
from pipelines.recipes.stage import Stage
from storage import weights
from storage.objects import open_store
from storage.uri import join
from vit import (
    BiT,
    InferredConfig,
    ViT,
    adapt_state_dict,
    build_model,
    checkpoint_digest,
    import_checkpoint,
    infer_config,
)
from vit.importers.files import INDEXES, SUFFIXES
from vit.importers.settings import FILES as NEIGHBOURS

FILES = (*SUFFIXES, *INDEXES)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Weights at an address: those that a stage committed, or a public checkpoint.

    Made by `open_source`, or `committed_source` where only a stage's will do. Everything about the
    weights is asked of it: their name, their content, their tensors.
    """

    uri: str
    """The stage's attempt, or the checkpoint's file or folder: an absolute path, s3://, or the
    commit of a repository, hf://ORG/NAME@COMMIT."""
    manifest: Manifest | None = None
    """Of the stage that committed the weights; None for a public checkpoint."""
    checkpoint: Path | None = None
    """Where the checkpoint lies on this machine, while the source is open; None for a stage's."""

    @property
    def name(self) -> str:
        """Last part of the address: the attempt, or the checkpoint's file."""
        return self.uri.rstrip("/").rpartition("/")[2]

    @property
    def committed(self) -> Manifest:
        """The manifest of weights that are a stage's for sure."""
        assert self.manifest is not None, f"{self.uri} is a public checkpoint"
        return self.manifest

    def digest(self) -> str:
        """SHA-256 of the content, wherever it lies.

        Raises:
            vit.BadCheckpoint: the checkpoint cannot be read.
        """
        if self.checkpoint is not None:
            return checkpoint_digest(self.checkpoint)
        return self.committed.files[WEIGHTS].sha256

    def tensors(self, *, name: str = "weights") -> dict[str, Tensor]:
        """Read a stage's tensors as it committed them.

        `name` is `weights`, `weights_ema` or `adapters`.

        Raises:
            storage.errors.WeightsNotFound, CorruptWeights, Unavailable: there are none, or damaged.
        """
        files = {key: file.entry() for key, file in self.committed.files.items()}
        return weights.read_tensors(self.uri, files, name=name)

    def model(self) -> ViT | BiT:
        """Return a stage's network with its weights, in evaluation mode on the CPU. Raises as
        `tensors` does."""
        model = build_model(self.committed.config(), seed=None)
        model.load_state_dict(self.tensors())
        return model.eval()

    def inferred(
        self,
        *,
        heads: int | None = None,
        pool: Literal["token", "gap"] | None = None,
        pos_embed: Literal["none", "sincos-2d"] | None = None,
        image_size: int | None = None,
    ) -> InferredConfig:
        """The config of the weights' own model, how images are cut for it, and where each is known
        from.

        The arguments are what a public checkpoint leaves open, as `vit.infer_config` takes them.

        Raises:
            vit.BadCheckpoint: it leaves one of them open, or cannot be read.
        """
        if self.checkpoint is not None:
            return infer_config(
                self.checkpoint, heads=heads, pool=pool, pos_embed=pos_embed, image_size=image_size
            )
        config = self.committed.config()
        by = dict.fromkeys([*(each.name for each in fields(config)), "crop"], weights.MANIFEST)
        return InferredConfig(
            config=config,
            mean=None,
            std=None,
            crop=self.committed.data().preprocessing,
            inferred_from=by,
            notes=(),
        )

    def start_weights(self, stage: Stage) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Weights that fit the stage's model, and a line for each thing that was changed.

        Of the stage count the model, `reset_head`, and for a public checkpoint what its files do
        not say: `init_image_size`, `init_mean`, `init_std`.

        Raises:
            Mistake, vit.BadCheckpoint: they do not fit; names the place and the tensors.
        """
        if self.checkpoint is None:
            return adapt_state_dict(
                self.tensors(), self.committed.config(), stage.model, reset_head=stage.reset_head
            )
        return import_checkpoint(
            self.checkpoint,
            stage.model,
            source_image_size=stage.init_image_size,
            mean=stage.init_mean,
            std=stage.init_std,
            reset_head=stage.reset_head,
        )


@contextmanager
def open_source(uri: str) -> Iterator[Source]:
    """Read the manifest, or download the checkpoint for as long as the block lasts.

    Raises:
        Mistake: nothing lies there.
        storage.errors.CorruptWeights, Unavailable: the manifest cannot be read.
    """
    if hub.is_hub(uri):
        pinned, folder = hub.fetched(uri)
        yield Source(uri=pinned, checkpoint=folder)
        return
    manifest = None if _is_file(uri) else read_manifest(uri)
    if manifest is not None:
        yield Source(uri=uri, manifest=manifest)
        return
    with downloads_kept() as kept:
        if uri not in kept.checkpoints:
            folder = kept.enter_context(TemporaryDirectory(prefix="vit-on-ray-init-"))
            kept.checkpoints[uri] = _fetched(uri, Path(folder))
        yield Source(uri=uri, checkpoint=kept.checkpoints[uri])


class _Downloads(ExitStack):
    """Checkpoints by address, and the folders that they lie in until the stack is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.checkpoints: dict[str, Path] = {}


_downloads: ContextVar[_Downloads | None] = ContextVar("downloads", default=None)


@contextmanager
def downloads_kept() -> Iterator[_Downloads]:
    """Download each checkpoint once within the block, and delete it after the outermost one."""
    outer = _downloads.get()
    if outer is not None:
        yield outer
        return
    with _Downloads() as kept:
        token = _downloads.set(kept)
        try:
            yield kept
        finally:
            _downloads.reset(token)


def committed_source(uri: str) -> Source:
    """The weights that a stage committed.

    Raises:
        storage.errors.WeightsNotFound, CorruptWeights, Unavailable: there are none, or damaged.
    """
    manifest = read_manifest(uri)
    if manifest is None:
        raise weights.not_found(uri)
    return Source(uri=uri, manifest=manifest)


def init_digest(init: str | None) -> str | None:
    """SHA-256 of the content that `init` names, wherever it lies; None where it names nothing.

    A stage is named by it, so that a checkpoint that moved is the same and a replaced one another.

    Raises:
        ValueError: there is nothing, or it cannot be read.
    """
    if init is None:
        return None
    with open_source(init_location(init)) as source:
        return source.digest()


def init_location(init: str) -> str:
    """Where `init` lies, absolute: workers have working directories of their own."""
    return init if "://" in init else str(Path(init).absolute())


def _is_file(uri: str) -> bool:
    """Whether a path or URI names a file of weights; else it is a folder or an attempt."""
    return uri.lower().endswith(FILES)


def _fetched(uri: str, folder: Path) -> Path:
    """A local path of the checkpoint; objects on S3 are downloaded."""
    if "://" not in uri:
        if not Path(uri).exists():
            raise Mistake(f"init {uri}: no such file or folder - give a checkpoint or an attempt")
        return Path(uri)
    place, _, name = uri.rpartition("/")
    store = open_store(place if _is_file(uri) else uri)
    if _is_file(uri):
        shards = store.list(f"{name.partition('.')[0]}-") if name.endswith(INDEXES) else ()
        beside = (key for key in NEIGHBOURS if store.exists(key))
        keys = [name, *(key for key in shards if _is_file(key)), *beside]
    else:
        keys = [key for key in store.list() if "/" not in key]
    if not keys:
        raise Mistake(f"init {join(uri)}: nothing lies there - give a checkpoint or an attempt")
    for key in keys:
        store.download(key, folder / key)
    return folder / name if _is_file(uri) else folder
