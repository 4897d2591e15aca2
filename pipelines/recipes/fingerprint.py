"""The name of a stage's content: config, dataset, parent; and its values as plain ones."""

import hashlib
import json
from dataclasses import asdict, fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pipelines.recipes.stage import Stage
from storage.decode import Crop
from storage.selection import Selection

FORMAT_VERSION = 1
# Added since: no part of a fingerprint where they say nothing, so that what was committed before
# keeps its name. The values are those that say nothing, and stay even if a default changes.
_ADDED: dict[str, dict[str, Any]] = {
    "model": {
        "drop_rest": False,
        "patch_bias": True,
        "rotary": "none",
        "rotary_temperature": 10_000.0,
        "rotary_reference": 0,
        "mlp": "gelu",
        "norm": "layer",
        "pre_norm": False,
        "qk_norm": False,
        "attn_norm": False,
        "mlp_norm": False,
        "qkv_bias": "all",
        "proj_bias": True,
        "layer_scale": False,
        "layer_scale_init": 1e-5,
        "drop_path_constant": False,
        "distilled": False,
    },
    "stage": {
        "nonfinite": "stop",
        "init_mean": None,
        "init_std": None,
        "reset_head": False,
        "keep": "last",
        "metric": "val/accuracy",
        "patience": 0,
        "train": "all",
        "objective": "classify",
        "masked": {
            "ratio": None,
            "decoder_width": 512,
            "decoder_depth": 8,
            "decoder_heads": 16,
            "normalize": True,
        },
    },
    "augment": {"three_augment": False, "color_jitter": 0.0},
    "data": {
        "val_selection": asdict(Selection()),
        "balance": "none",
        "shares": None,
        "eval_interpolation": "bicubic",
    },
    "crop": {"interpolation": "bicubic"},
    "selection": {"labels": None, "samples": None, "skip": 0},
}


def fingerprint(
    stage: Stage, *, dataset_digest: str, parent: str | None, init: str | None = None
) -> str:
    """Name of a stage's content: the same 16 hex digits for the same experiment, anywhere.

    Args:
        stage: the whole stage.
        dataset_digest: of the dataset it trains on.
        parent: fingerprint of the stage it starts from.
        init: digest of the checkpoint that `stage.init` names, which takes the place of its path.
    """
    assert (init is None) == (stage.init is None), f"init {stage.init} has the digest {init}"
    content = {
        "format_version": FORMAT_VERSION,
        "stage": _as_first_written(typed_values(stage)) | {"init": init},
        "dataset": dataset_digest,
        "parent": parent,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def typed_values(value: Any, of_type: Any = None) -> Any:
    """`dataclasses.asdict` by the types of the fields: 10 in a field of floats becomes 10.0.

    The two are equal, but not as text, and a fingerprint is made of text.
    """
    if is_dataclass(value) and not isinstance(value, type):
        types = get_type_hints(type(value))
        return {f.name: typed_values(getattr(value, f.name), types[f.name]) for f in fields(value)}
    arms = get_args(of_type) if get_origin(of_type) in (Union, UnionType) else (of_type,)
    if isinstance(value, tuple | list):
        kinds = next((get_args(arm) for arm in arms if get_origin(arm) is tuple), ())
        same = len(kinds) != len(value) or Ellipsis in kinds
        each = [kinds[0] if kinds else None] * len(value) if same else kinds
        return [typed_values(item, kind) for item, kind in zip(value, each, strict=True)]
    if isinstance(value, int) and not isinstance(value, bool) and float in arms and int not in arms:
        return float(value)
    if isinstance(value, float) and value.is_integer() and int in arms and float not in arms:
        return int(value)
    return value


def crop_values(crop: Crop) -> dict[str, Any]:
    """A crop as plain values, for a fingerprint."""
    return _without_defaults(typed_values(crop), _ADDED["crop"])


def _as_first_written(stage: dict[str, Any]) -> dict[str, Any]:
    """The stage without the fields in `_ADDED` that have their default."""
    data = dict(stage["data"])
    data["selection"] = _without_defaults(data["selection"], _ADDED["selection"])
    model = _without_defaults(stage["model"], _ADDED["model"])
    augment = _without_defaults(stage["augment"], _ADDED["augment"])
    data = _without_defaults(data, _ADDED["data"])
    whole = stage | {"data": data, "model": model, "augment": augment}
    return _without_defaults(whole, _ADDED["stage"])


def _without_defaults(values: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k not in added or v != added[k]}


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dataclass values as dotted names: `{"optim.peak_lr": 0.001, ...}`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found.update(flatten(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def plain(value: Any) -> Any:
    """Tuples as lists, so that YAML and JSON say the same."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value
