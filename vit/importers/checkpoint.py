"""`import_checkpoint` turns a file in any known layout into weights that fit a config.

The checkpoint's own model is inferred from its files and tensors. Only what they do not show
(heads, GELU, epsilon, pixels of a bare state dict) is taken from the config, and a note says so.
"""

from dataclasses import replace
from os import PathLike
from typing import Any

from torch import Tensor

from vit.config import BiTConfig, Config, ViTConfig
from vit.importers import fixes
from vit.importers.errors import BadCheckpoint, foreign
from vit.importers.misfit import unsupported
from vit.importers.pooling import decide_pool
from vit.importers.positions import place_positions
from vit.importers.shapes import may_turn
from vit.importers.source import Source, pixels_of, read_source
from vit.resample import Convention
from vit.surgery import adapt_state_dict

_IMAGENET = "ImageNet's are 0.485 0.456 0.406 and 0.229 0.224 0.225"
_TIMM_SAYS = {"gelu": "timm's default is exact", "norm_eps": "timm's default is 1e-06"}


@foreign
def import_checkpoint(
    path: str | PathLike[str],
    config: Config,
    *,
    source_image_size: int | tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    reset_head: bool = False,
    convention: Convention = "align-corners",
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Weights for `config`'s model from the checkpoint at `path`, and one line per change.

    Weights are float32 and expect pixels in [-1, 1]: for a checkpoint with another mean and
    standard deviation the first layer is rewritten, which is exact.

    Args:
        path: a file (.npz .safetensors .pt .pth .bin .ckpt .pth.tar), an index of shards, or a
            Hugging Face, timm or DeepSpeed folder. A config.json beside the weights is read too.
        config: the model that the weights go into.
        source_image_size: resolution of the checkpoint, needed only if its files do not show it.
        mean: mean of the pixels in [0, 1] that the checkpoint expects, if its files do not say it.
        std: standard deviation of these pixels.
        reset_head: start with a new head even if the checkpoint's would fit.
        convention: how a position table is resized.

    Raises:
        BadCheckpoint: a ValueError that names the file, at most three tensors, and what to do.
        FileNotFoundError: there is nothing at `path`.
    """
    source = read_source(path)
    try:
        own = _own_config(source, config, source_image_size)
        _fold(source, mean, std, own)
        weights, adapted = adapt_state_dict(
            source.weights, own, config, convention=convention, reset_head=reset_head
        )
    except BadCheckpoint:
        raise
    except ValueError as error:
        reason = unsupported(source.weights)
        raise source.error(f"{reason} ({error})" if reason else error) from None
    return weights, (*source.notes, *adapted)


def _own_config(source: Source, config: Config, image_size: int | tuple[int, int] | None) -> Config:
    """The checkpoint's own config; fields that it does not show are taken from `config`."""
    if source.layout.family != config.family:
        raise source.error(f"cannot turn a {source.layout.family} into a {config.family}")
    if isinstance(config, BiTConfig):
        return replace(config, **source.fields)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    sizes = [(config.image_hw, "the stage")]
    if source.settings.image_size:
        by = source.settings.said_by["image_size"]
        sizes.insert(0, (source.settings.image_size, by))
    if "patch_size" in source.fields:
        place_positions(source, sizes, given=size)
    fitted = fixes.fit_parts(source.weights, source.fields, config)
    source.notes += fitted.pop("notes")
    source.fields |= fitted
    decide_pool(source, wanted=config.pool, wanted_registers=config.registers)
    if "pos_embed" not in source.fields and config.pos_embed not in ("none", "sincos-2d"):
        raise source.error(
            "the checkpoint has no position table - set --stage.model.pos-embed none (or sincos-2d)"
        )
    _say_what_is_taken(source, config)
    fields: dict[str, Any] = dict(source.fields)
    # `heads` must divide `width` for the config to be valid; which one does not matter here.
    if fields.get("width", config.width) != config.width:
        fields.setdefault("heads", 1)
    return replace(config, **fields)


def _say_what_is_taken(source: Source, config: ViTConfig) -> None:
    taken = [
        f"{name} {getattr(config, name)}" + (f" ({hint})" if (hint := _TIMM_SAYS.get(name)) else "")
        for name in ("heads", "gelu", "norm_eps", "rotary")
        if name not in source.fields
        if name != "rotary" or config.rotary != "none" or may_turn(source.weights)
        if name != "gelu" or config.mlp == "gelu"
    ]
    if taken:
        source.notes.append(f"not in the file, taken from the stage: {', '.join(taken)}")


def _fold(
    source: Source, mean: tuple[float, ...] | None, std: tuple[float, ...] | None, own: Config
) -> None:
    mean, std, _ = pixels_of(source, mean, std)
    if (mean is None) != (std is None):
        raise source.error("--stage.init-mean and --stage.init-std belong together: give both")
    if mean is None or std is None:
        source.notes.append(
            "assumed pixels of mean 0.5 and std 0.5, no file says which - for others set"
            f" --stage.init-mean and --stage.init-std ({_IMAGENET})"
        )
    half = (0.5,) * 3
    has_rows = isinstance(own, ViTConfig) and own.pos_embed_prefix
    prefix_rows = own.num_prefix_tokens if isinstance(own, ViTConfig) and has_rows else 0
    source.notes += fixes.fold_pixels(
        source.weights, mean or half, std or half, prefix_rows=prefix_rows
    )
