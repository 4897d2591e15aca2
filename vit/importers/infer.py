"""`infer_config` finds the config of a checkpoint's model, and where each field is known from."""

from dataclasses import dataclass, fields
from os import PathLike
from typing import Any, Literal

from vit.config import BiTConfig, Config, ViTConfig
from vit.importers.errors import foreign
from vit.importers.pooling import decide_pool
from vit.importers.positions import place_positions
from vit.importers.shapes import may_turn
from vit.importers.source import Source, pixels_of, read_source
from vit.preprocessing import Preprocessing

# Heads of published models by (width, depth), as a hint: tensor shapes do not show them.
_USUAL_HEADS = {(192, 12): "3", (384, 12): "6 (MoCo v3: 12)", (768, 12): "12", (1024, 24): "16",
                (1280, 32): "16", (1408, 40): "16", (1664, 48): "16", (1152, 27): "16"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class InferredConfig:
    """Config of the model in a checkpoint, with its sources."""

    config: Config
    """Config of the model that reproduces the checkpoint's own results; regularisation is 0."""
    mean: tuple[float, ...] | None
    """Mean of the pixels in [0, 1] that it was trained on; None if unknown."""
    std: tuple[float, ...] | None
    """Standard deviation of the pixels; None if unknown."""
    crop: Preprocessing | None
    """How its files say that an image is cut; None if unknown, or if models here cannot do it."""
    inferred_from: dict[str, str]
    """Source of each config field, of `mean`, `std` and `crop`: a file, a tensor or a default."""
    notes: tuple[str, ...]
    """Lines about what was unwrapped, folded or left out."""


@foreign
def infer_config(
    path: str | PathLike[str],
    *,
    heads: int | None = None,
    pool: Literal["token", "gap"] | None = None,
    pos_embed: Literal["none", "sincos-2d"] | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> InferredConfig:
    """Infer the config of the model whose weights are at `path`.

    The sources are, in this order: config.json and the files beside it, the shapes of the tensors,
    and what all models of the layout have in common. `import_checkpoint(path,
    infer_config(path).config)` gives weights that compute the same as the checkpoint's own code.

    Args:
        path: as `import_checkpoint` takes it.
        heads: number of attention heads, if neither files nor shapes show it.
        pool: input of the head, if the file does not show it.
        pos_embed: kind of position embedding, if the file has no table.
        image_size: resolution, if neither the files nor a square table show it.

    Raises:
        BadCheckpoint: the checkpoint cannot be read, its model's family is not supported, or one of
            the arguments is needed, which the message names.
        FileNotFoundError: there is nothing at `path`.
    """
    source = read_source(path)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    said = source.settings
    sizes = [(said.image_size, said.said_by["image_size"])] if said.image_size else []
    if source.layout.family == "bit":
        config: Config = _bit(source, size or said.image_size)
    else:
        _ask_heads(source, heads)
        place_positions(source, sizes, given=size)
        decide_pool(source, wanted=pool, wanted_registers=None)
        _fill(source, pos_embed)
        if "image_size" not in source.fields:
            raise source.error(
                "its resolution is unknown - set --stage.init-image-size (in Python: image_size)"
            )
        values: dict[str, Any] = dict(source.fields)
        values["image_size"] = _size(values["image_size"])
        config = ViTConfig(**values)
    mean, std, pixels_by = pixels_of(source, None, None)
    if said.crop:
        pixels_by = {**pixels_by, "crop": said.said_by.get("crop", "config.json")}
    by = {name: source.said_by.get(name, "default") for name in _names(config)}
    return InferredConfig(
        config=config,
        mean=mean,
        std=std,
        crop=said.crop,
        inferred_from=by | {n: pixels_by.get(n, "unknown") for n in ("mean", "std", "crop")},
        notes=(*source.notes, *said.crop_notes),
    )


def _bit(source: Source, size: tuple[int, int] | None) -> BiTConfig:
    if size:
        source.know("image_size", _size(size), "given or config.json")
    source.know("family", "bit", f"layout {source.layout.name}")
    return BiTConfig(**source.fields)


def _ask_heads(source: Source, heads: int | None) -> None:
    known = source.fields.get("heads")
    if known is not None and heads not in (None, known):
        raise source.error(f"wanted {heads} heads, found {known} in {source.said_by['heads']}")
    if known is not None:
        return
    if heads is None:
        shape: tuple[int, int] = source.fields.get("width", 0), source.fields["depth"]
        usual = _USUAL_HEADS.get(shape)
        hint = f"; usual for width {shape[0]} and depth {shape[1]}: {usual}" if usual else ""
        raise source.error(f"its number of heads is unknown{hint} - set --stage.model.heads")
    source.know("heads", heads, "given")


def _fill(source: Source, pos_embed: str | None) -> None:
    source.know("family", "vit", f"layout {source.layout.name}")
    if "rotary" not in source.fields and may_turn(source.weights):
        raise source.error(
            "it may have rotary positions (EVA-02, DINOv3), which the tensors do not show - put its"
            " config.json beside it"
        )
    if source.fields.get("rotary", "none") != "none" and pos_embed is None:
        pos_embed = "none"
    if "pos_embed" not in source.fields:
        if pos_embed is None:
            raise source.error(
                "it has no position table - set --stage.model.pos-embed none or sincos-2d, or for"
                " rotary positions put its config.json beside it"
            )
        source.know("pos_embed", pos_embed, "given")
    defaults: dict[str, Any] = {"gelu": "exact", "norm_eps": 1e-6}
    if source.fields["mlp"] == "swiglu":
        del defaults["gelu"]
    for name, value in defaults.items():
        if name not in source.fields:
            source.know(name, value, "timm's default, not in the file")
            if name == "gelu" and source.layout.name == "open_clip":
                source.notes.append(
                    "assumed exact GELU: OpenAI's own weights have quick GELU - for them set"
                    " --stage.model.gelu quick, or put open_clip_config.json beside the file"
                )


def _size(size: tuple[int, int]) -> int | tuple[int, int]:
    return size[0] if size[0] == size[1] else size


def _names(config: Config) -> list[str]:
    return [field.name for field in fields(config)]
