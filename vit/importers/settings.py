"""Read timm's or Hugging Face's config.json beside the weights.

Only what tensors do not show is read: resolution, heads, pooling, GELU, epsilon, how an image is
cut, and the mean and standard deviation that pixels were normalised by. What is missing stays None;
the caller then asks for it, or assumes a value and says so.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from vit.importers.config_values import floats, named, pair
from vit.importers.crops import hugging_face_crop, timm_crop
from vit.importers.errors import BadCheckpoint
from vit.importers.open_clip import vision_of
from vit.importers.timm_names import Turning, known_name, refused_name
from vit.preprocessing import Preprocessing

_GELU: dict[str, Literal["tanh", "exact", "quick"]] = {
    "gelu": "exact",
    "gelu_tanh": "tanh",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "gelu_fast": "tanh",
    "quick_gelu": "quick",
}
_OPEN_CLIP = "open_clip_config.json"
FILES = ("config.json", "preprocessor_config.json", _OPEN_CLIP)
"""What is read beside the weights."""
_TIMM_POOLS = {"token": "token", "avg": "gap", "map": "map"}
# Hugging Face's defaults of epsilon and activation by model type, for files without them.
_HUGGING_FACE = {
    "vit_msn": (1e-6, "gelu"),
    "dinov2": (1e-6, "gelu"),
    "dinov2_with_registers": (1e-6, "gelu"),
    "dinov3_vit": (1e-5, "gelu"),
    "clip_vision_model": (1e-5, "quick_gelu"),
    "siglip_vision_model": (1e-6, "gelu_pytorch_tanh"),
}
_BEIT = ("beit", "data2vec-vision")
_TOWERS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Properties of a model that its config files state; None if they do not."""

    image_size: tuple[int, int] | None = None
    width: int | None = None
    heads: int | None = None
    pool: Literal["token", "gap", "map"] | None = None
    gelu: Literal["tanh", "exact", "quick"] | None = None
    norm_eps: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: Preprocessing | None = None
    """How an image is cut, where models here can do that."""
    crop_notes: tuple[str, ...] = ()
    """What the files say of it and models here cannot do."""
    pos_embed: Literal["none"] | None = None
    turning: Turning | None = None
    """Rotary positions; none of them where the files name a model without."""
    map_reads_prefix: bool | None = None
    """Whether attention pooling reads class and register tokens too, as models here do."""
    head_averages: bool = False
    """Whether it is a SigLIP of transformers' whose classifier, if any, averages the patches."""
    file: str = "config.json"
    """Name of the file that describes the model."""
    said_by: Mapping[str, str] = field(default_factory=dict)
    """Source of each property, for messages."""


def read_settings(folder: Path) -> Settings | None:
    """Read the settings in a folder; None if it has no config.json that describes a model.

    Raises BadCheckpoint for invalid JSON, and for an activation or pooling that is not supported.
    """
    path = folder / "config.json"
    config = read_json(path)
    if config is None:
        path = folder / _OPEN_CLIP
        config = read_json(path)
    if config is None:
        return None
    try:
        if path.name == _OPEN_CLIP:
            return _open_clip(config)
        if "architecture" in config:
            return _timm(config)
        if "model_type" in config or "hidden_size" in config:
            return _hugging_face(config, read_json(folder / "preprocessor_config.json") or {})
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BadCheckpoint(f"{path} cannot be understood: {error}") from None
    return None


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if there is no such file. Raises BadCheckpoint."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise BadCheckpoint(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise BadCheckpoint(f"{path}: wanted a JSON object, found a {type(content).__name__}")
    return content


def _timm(config: dict[str, Any]) -> Settings:
    architecture: str = config["architecture"]
    arguments: dict[str, Any] = config.get("model_args") or {}
    pixels: dict[str, Any] = config.get("pretrained_cfg") or config
    if reason := refused_name(architecture):
        raise BadCheckpoint(f"the architecture {architecture} has {reason}, which is not supported")
    known = known_name(architecture)
    by_name = f"its architecture {architecture}"
    size = arguments.get("img_size") or (pixels.get("input_size") or [None])[1:]
    image_size = pair(size)
    crop, crop_notes = timm_crop(pixels, image_size and min(image_size))
    settings = Settings(
        image_size=image_size,
        width=arguments.get("embed_dim") or config.get("num_features"),
        mean=floats(pixels.get("mean")),
        std=floats(pixels.get("std")),
        crop=crop,
        crop_notes=crop_notes,
        pos_embed="none" if arguments.get("pos_embed") == "none" else None,
        turning=_turning(arguments, known and known.turning),
        map_reads_prefix=arguments.get("pool_include_prefix", architecture == "test_vit3"),
    )
    said_by = _of_config(settings)
    pool = arguments.get("global_pool") or config.get("global_pool")
    if arguments.get("pool_include_prefix") and pool == "avg":
        raise BadCheckpoint("pool_include_prefix averages the class token too: not supported")
    chosen = {
        "pool": (pool, known and known.pool),
        "gelu": (arguments.get("act_layer"), known and known.activation),
        "heads": (arguments.get("num_heads"), known and known.heads),
        "norm_eps": (config.get("norm_eps"), known and known.norm_eps),
    }
    values: dict[str, Any] = {}
    for name, (said, by_its_name) in chosen.items():
        if said is not None or by_its_name is not None:
            values[name] = by_its_name if said is None else said
            said_by[name] = by_name if said is None else "config.json"
    if "pool" in values:
        values["pool"] = named(values["pool"], _TIMM_POOLS, "global_pool")
    if values.get("gelu") == "swiglu":  # the tensors show it
        del values["gelu"]
    if "gelu" in values:
        values["gelu"] = named(values["gelu"], _GELU, "activation")
    return replace(settings, **values, said_by=said_by)


def _turning(arguments: dict[str, Any], usual: Turning | None) -> Turning | None:
    """Rotary positions by the arguments of timm's Eva, which override those of its name."""
    if arguments.get("use_rot_pos_emb") is False:
        return Turning()
    turning = usual or Turning()
    if "rope_type" in arguments:
        kinds = {"cat": "axial", "dinov3": "dinov3"}
        turning = replace(turning, rotary=named(arguments["rope_type"], kinds, "rope_type"))
    if "rope_temperature" in arguments:
        turning = replace(turning, rotary_temperature=float(arguments["rope_temperature"]))
    if "ref_feat_shape" in arguments:
        rows, columns = pair(arguments["ref_feat_shape"]) or (0, 0)
        if rows != columns:
            raise BadCheckpoint(f"ref_feat_shape {rows}x{columns} is not square: not supported")
        turning = replace(turning, rotary_reference=rows)
    return turning if usual or turning != Turning() else None


def _hugging_face(config: dict[str, Any], pixels: dict[str, Any]) -> Settings:
    kind = whole = str(config.get("model_type"))
    if "vision_config" in config:  # of an image and a text tower
        config = {"model_type": _TOWERS.get(kind)} | config["vision_config"]
        kind = str(config.get("model_type"))
    eps, activation = _HUGGING_FACE.get(kind, (1e-12, "gelu"))
    said = config.get("hidden_act", activation)
    if config.get("use_gated_mlp") and said != "silu":
        raise BadCheckpoint(f"a gated MLP of {said!r} is not supported, wanted 'silu'")
    plain = pixels.get("do_normalize") is False
    crop, crop_notes = hugging_face_crop(pixels)
    settings = Settings(
        image_size=pair(config.get("image_size", 224)),
        width=config.get("hidden_size"),
        heads=config.get("num_attention_heads", 12),
        pool=_pool_of(kind, config),
        gelu=None if said == "silu" else named(said, _GELU, "activation"),
        turning=_turning_of_dinov3(config) if kind == "dinov3_vit" else Turning(),
        norm_eps=config.get("layer_norm_eps", eps),
        mean=(0.0, 0.0, 0.0) if plain else floats(pixels.get("image_mean")),
        std=(1.0, 1.0, 1.0) if plain else floats(pixels.get("image_std")),
        crop=crop,
        crop_notes=crop_notes,
        head_averages=whole == "siglip",
    )
    said_by = _of_config(settings)
    for name in {"mean", "std", "crop"} & said_by.keys():
        said_by[name] = "preprocessor_config.json"
    return replace(settings, said_by=said_by)


def _open_clip(config: dict[str, Any]) -> Settings | None:
    found = vision_of(config)
    if found is None:
        return None
    said, (crop, crop_notes), pixels = found
    settings = Settings(
        **said,
        mean=floats(pixels.get("mean")),
        std=floats(pixels.get("std")),
        crop=crop,
        crop_notes=crop_notes,
        turning=Turning(),
        file=_OPEN_CLIP,
    )
    return replace(settings, said_by=dict.fromkeys(_of_config(settings), _OPEN_CLIP))


def _pool_of(kind: str, config: dict[str, Any]) -> Literal["token", "gap"] | None:
    if kind == "siglip_vision_model":
        return None  # its tensors show it
    mean = kind in _BEIT and config.get("use_mean_pooling", True)
    return "gap" if mean else "token"


def _turning_of_dinov3(config: dict[str, Any]) -> Turning:
    given = config.get("rope_parameters") or config
    theta = given.get("rope_theta", 100.0)
    return Turning(rotary="dinov3", rotary_temperature=float(theta))


def _of_config(settings: Settings) -> dict[str, str]:
    names = settings.__dataclass_fields__.keys() - {"said_by", "file", "head_averages"}
    return {name: "config.json" for name in names if getattr(settings, name) is not None}
