"""Translate tensor names by rules: the first match wins, and a name without a rule is an error."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vit.errors import BadModel
from vit.importers.errors import first_three


def as_is(tensor: Tensor) -> Tensor:
    """Keep the tensor."""
    return tensor


@dataclass(frozen=True)
class Rule:
    """Renaming of a tensor: `pattern` must match its whole name, and `name` may use the groups."""

    pattern: str
    name: str | Callable[[re.Match[str]], str]
    change: Callable[[Tensor], Tensor] = as_is


def counted_from_one(name: str) -> Callable[[re.Match[str]], str]:
    """Fill the two `{}` of a name with the first two groups, minus 1: theirs are counted from 1."""
    return lambda match: match.expand(name).format(int(match[1]) - 1, int(match[2]) - 1)


def translate(tensors: Mapping[str, Tensor], rules: tuple[Rule, ...]) -> dict[str, Tensor]:
    """Rename and reshape by `rules`, then fuse q, k and v, and the inner layers of a SwiGLU, into
    one matrix as in our models.

    Raises BadModel naming the tensors without a rule, or a tensor that two names lead to.
    """
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    translated: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in tensors.items():
        for pattern, rule in compiled:
            if match := pattern.fullmatch(name):
                new = match.expand(rule.name) if isinstance(rule.name, str) else rule.name(match)
                if new in translated:
                    raise BadModel(f"two tensors for {new}: the second is {name}")
                translated[new] = rule.change(tensor)
                break
        else:
            unknown.append(name)
    if unknown:
        raise BadModel(f"no rule for {first_three(sorted(unknown))}")
    _fuse(translated, ("q", "k", "v"), "qkv")
    _fuse(translated, ("k", "v"), "kv")
    _fuse(translated, ("fc1_g", "fc1_x"), "fc1")
    for name in [name for name in translated if ".mlp.fc1_x." in name]:  # a layer without a gate
        translated[name.replace("fc1_x", "fc1")] = translated.pop(name)
    for name in [name for name in translated if name.startswith("attn_pool.qkv.")]:
        q, k, v = translated.pop(name).chunk(3)
        translated[name.replace("qkv", "q")] = q
        translated[name.replace("qkv", "kv")] = torch.cat([k, v])
    for name in [name for name in translated if name.endswith((".attn.q.bias", ".attn.v.bias"))]:
        # keys have no bias
        translated[f"{name.removesuffix('.bias')}_bias"] = translated.pop(name)
    return translated


def _fuse(tensors: dict[str, Tensor], parts: tuple[str, ...], whole: str) -> None:
    """Stack `X.q.weight`, `X.k.weight` ... as `X.qkv.weight` for each X that has all parts."""
    first = f".{parts[0]}."
    for name in [name for name in tensors if first in name]:
        names = [name.replace(first, f".{part}.") for part in parts]
        if all(part in tensors for part in names) and not _is_probe(name, parts):
            fused = torch.cat([tensors.pop(part) for part in names])
            tensors[name.replace(first, f".{whole}.")] = fused


def _is_probe(name: str, parts: tuple[str, ...]) -> bool:
    """Whether the tensor is the q of attention pooling's probe, which is not fused with k and v."""
    return name.startswith("attn_pool.") and parts[0] == "q"
