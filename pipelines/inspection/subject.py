"""A model to inspect: weights with a name."""

from dataclasses import dataclass, replace

from pipelines.lineage.source import Source, committed_source
from pipelines.recipes.stage import Stage
from storage.errors import BadInput, StorageError
from storage.uri import join
from vit import BiT, Config, ViT, ViTConfig, build_model


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model in evaluation mode."""

    name: str
    model: ViT | BiT
    notes: tuple[str, ...] = ()
    """What was changed when the weights were read."""

    @property
    def config(self) -> Config:
        """What the model is."""
        return self.model.config

    @property
    def image_size(self) -> int:
        """Side of the square images it takes, in pixels."""
        side = self.config.image_size
        if not isinstance(side, int):
            raise BadInput(
                f"{self.name} takes images of {side} pixels, but only square images are supported"
            )
        return side

    @property
    def title(self) -> str:
        """Its name and resolution."""
        return f"{self.name}, {self.image_size} px"


def committed_subject(source: Source) -> Subject:
    """The model that a stage committed.

    Raises:
        storage.errors.WeightsNotFound, CorruptWeights, Unavailable: there is none, or damaged.
    """
    return Subject(name=source.committed.stage_name, model=source.model())


def imported_subject(source: Source, stage: Stage) -> Subject:
    """The model of a public checkpoint, in the shape of `stage`'s.

    Raises:
        ValueError: it does not fit; names the place and the tensors.
    """
    tensors, notes = source.start_weights(replace(stage, reset_head=False))
    model = build_model(stage.model, seed=None)
    model.load_state_dict(tensors)
    return Subject(name=source.name, model=model.eval(), notes=notes)


def before_upscale(source: Source) -> Subject | None:
    """Return the parent of committed weights if its grid or patches differ and it still exists.

    A stage lies beside its parent: <root>/<run>/<stage>/<attempt>.
    """
    manifest = source.committed
    parent = manifest.parent
    if not parent:
        return None
    try:
        folder = source.uri.rstrip("/").rsplit("/", 2)[0]
        before = committed_source(join(folder, parent.stage, parent.attempt))
        if before.digest() != parent.weights_sha256:
            return None
        if _cut(before.committed.config()) == _cut(manifest.config()):
            return None
        return committed_subject(before)
    except StorageError:  # the parent is one picture more, not a reason to show none
        return None


def _cut(config: Config) -> tuple[object, ...]:
    patch = config.patch_size if isinstance(config, ViTConfig) else None
    return config.grid_size, patch
