"""A model to inspect: weights with a name."""

from dataclasses import dataclass

from pipelines.lineage.manifest import WEIGHTS, Manifest, manifest_from_json, read_manifest
from pipelines.lineage.start_weights import start_weights
from pipelines.recipes.stage import Stage
from storage import weights
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


def committed_subject(uri: str) -> Subject:
    """The model that a stage committed.

    Raises:
        storage.errors.WeightsNotFound, CorruptWeights, Unavailable: there is none, or damaged.
    """
    tensors, values = weights.read_weights(uri)
    manifest = manifest_from_json(values, uri)
    model = build_model(manifest.config())
    model.load_state_dict(tensors)
    return Subject(name=manifest.stage_name, model=model.eval())


def imported_subject(uri: str, stage: Stage) -> Subject:
    """The model of a public checkpoint, in the shape of `stage`'s.

    Raises:
        ValueError: there is nothing, or it does not fit; names the place and the tensors.
    """
    tensors, notes = start_weights(
        uri,
        stage.model,
        image_size=stage.init_image_size,
        mean=stage.init_mean,
        std=stage.init_std,
    )
    model = build_model(stage.model)
    model.load_state_dict(tensors)
    name = uri.rstrip("/").rpartition("/")[2]
    return Subject(name=name, model=model.eval(), notes=notes)


def before_upscale(uri: str, manifest: Manifest) -> Subject | None:
    """Return the parent of committed weights if its grid or patches differ and it still exists.

    A stage lies beside its parent: <root>/<run>/<stage>/<attempt>.
    """
    parent = manifest.parent
    if not parent:
        return None
    parent_uri = join(uri.rstrip("/").rsplit("/", 2)[0], parent.stage, parent.attempt)
    try:
        before = read_manifest(parent_uri)
        if before is None or before.files[WEIGHTS].sha256 != parent.weights_sha256:
            return None
        if _cut(before.config()) == _cut(manifest.config()):
            return None
        return committed_subject(parent_uri)
    except StorageError:  # the parent is one picture more, not a reason to show none
        return None


def _cut(config: Config) -> tuple[object, ...]:
    patch = config.patch_size if isinstance(config, ViTConfig) else None
    return config.grid_size, patch
