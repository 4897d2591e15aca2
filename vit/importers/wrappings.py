"""Take a state dict out of what training scripts wrap around it.

There are two kinds of wrapping; a note reports each one removed. *Nestings* are dicts that hold the
state dict beside other things: `{"state_dict": ..., "epoch": 3}`. *Prefixes* stand before every
name: `module.` (DDP), `_orig_mod.` (torch.compile), `backbone.`, ... A prefix is what precedes a
name that identifies a layout, so `encoder.` is removed from a wrapped model and kept in a
torchvision file.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vit.importers.errors import BadCheckpoint, first_three
from vit.importers.layouts import LAYOUTS

# The first one found is taken: DINO evaluates its teacher.
_NESTINGS = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "teacher",
    "student",
    "net",
    "network",
    "weights",
    "state_dict_ema",
    "model_ema",
)
# Names of wrapper modules, anywhere in a name.
_TRANSPARENT = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|"
                          r"_checkpoint_wrapped_module)\.")  # fmt: skip
# If a file has several encoders, those with one of these words are not taken.
_SECOND = ("student", "momentum", "ema", "target", "key_encoder", "encoder_k")
_CLASSIFIER = ("classifier.weight", "classifier.bias")
# The patch embedding where Hugging Face's models have a classifier that fits ours.
_KERNELS = ("embeddings.patch_embedding.weight", "embeddings.patch_embeddings.projection.weight")
# Where big_vision's training loop and older Flax put the weights, next to the optimiser's state.
_FLAX = ("params/img/", "params/", "opt/target/", "target/", "img/")
# Tensors that only pre-training needs: a pattern of names, and what they are.
_LEFT_OUT = (
    (r"embeddings\.position_ids|.*relative_position_index", "the numbers of the positions"),
    (r"proj", "the projection into CLIP's common space"),
    (r"lm_head\..+", "the head of pre-training"),
    (r"decoder[._].+|mask_token|(?:\w+\.)?embeddings\.mask_token",
     "the decoder or mask token of pre-training"),
    (r"head\.(?:\d+|mlp(?!\.fc[12]\.)|last_layer|layers)\..+",
     "the projection head of pre-training"),
)  # fmt: skip


def unnest(content: Any, path: Path) -> tuple[Mapping[str, Any], list[str]]:
    """The state dict inside the content of a file, and a note per nesting removed.

    Raises BadCheckpoint if there is no state dict.
    """
    notes: list[str] = []
    while True:
        if not isinstance(content, Mapping):
            raise BadCheckpoint(f"{path}: wanted a state dict, found a {type(content).__name__}")
        found = [key for key in _NESTINGS if isinstance(content.get(key), Mapping)]
        if not found:
            return content, notes
        others = [
            str(key)
            for key, value in content.items()
            if key != found[0] and isinstance(value, Mapping) and _is_weights(value)
        ]
        beside = f"; left out beside it: {first_three(others)}" if others else ""
        notes.append(f"weights taken from {found[0]!r}{beside}")
        content = content[found[0]]


def _is_weights(value: Mapping[Any, Any]) -> bool:
    return bool(value) and all(isinstance(tensor, Tensor) for tensor in value.values())


def strip_names(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of one model without prefixes, and a note per prefix removed.

    Names in no known layout are returned unchanged.
    """
    plain = {_TRANSPARENT.sub("", name): tensor for name, tensor in tensors.items()}
    notes = ["removed _orig_mod. from the names"] if plain.keys() != tensors.keys() else []
    for prefix in _FLAX:
        inner = _inside(plain, prefix)
        if inner:
            left = len(plain) - len(inner)
            return inner, [*notes, f"left out {left} tensors outside {prefix}"] if left else notes
    if prefix := _choose(_prefixes(plain)):
        inner = _inside(plain, prefix)
        head = _classifier_beside(plain, inner)
        inner |= head
        others = (n for n in plain if not n.startswith(prefix) and n not in head)
        outside = sorted({_group(name) for name in others})
        left = f"; left out tensors without it: {first_three(outside)}" if outside else ""
        notes.append(f"removed {prefix} from the names{left}")
        plain = inner
    return plain, notes


def leave_out(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors without those that only pre-training needs, and a note per kind left out."""
    kept, notes = dict(tensors), []
    for pattern, what in _LEFT_OUT:
        names = [name for name in kept if re.fullmatch(pattern, name)]
        for name in names:
            del kept[name]
        if names:
            notes.append(f"left out {what}: {first_three(sorted(names))}")
    return kept, notes


def _classifier_beside(
    tensors: Mapping[str, Tensor], model: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Hugging Face's classifier, which stands beside the model: of its width, or twice that."""
    kernels = [model[name] for name in _KERNELS if name in model]
    weight = tensors.get("classifier.weight")
    if not kernels or weight is None or weight.ndim != 2:
        return {}
    width = kernels[0].shape[0]
    if weight.shape[1] not in (width, 2 * width):
        return {}
    return {name: tensors[name] for name in _CLASSIFIER if name in tensors}


def _inside(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _prefixes(names: Iterable[str]) -> set[str]:
    """The prefixes in front of layout markers; "" if a name is the marker itself."""
    patterns = [re.compile(rf"((?:.*?\.)??){layout.marker}") for layout in LAYOUTS]
    found = {match[1] for name in names for p in patterns if (match := p.fullmatch(name))}
    # A hybrid's ResNet is a layout of its own, inside the Transformer.
    return {one for one in found if not any(one != o and one.startswith(o) for o in found)}


def _choose(prefixes: set[str]) -> str:
    if len(prefixes) > 1:
        first = {one for one in prefixes if not any(word in one for word in _SECOND)}
        prefixes = first or prefixes
    if len(prefixes) > 1:
        raise BadCheckpoint(
            f"the file holds several models, under {first_three(sorted(prefixes))} - save only the"
            " one you want"
        )
    return next(iter(prefixes), "")


def _group(name: str) -> str:
    parts = name.split(".")
    return name if len(parts) < 3 else ".".join(parts[:2]) + ".*"
