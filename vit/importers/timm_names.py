"""Properties of timm's models that only their name shows, not the tensors or config.json.

timm defines heads, GELU and epsilon in its code, under the name that config.json calls
`architecture`. The tests compare this table with timm itself, name by name.
"""

import re
from dataclasses import dataclass
from typing import Literal

# Number of heads by name.
_HEADS = (
    (r"test_vit2?", 2),
    (r"test_vit[34]", 3),
    (r"vit_base_patch16_gap_.*", 16),
    (r"vit_giant_patch14_(reg\d_)?(dinov2|tipsv2)", 24),
    (r"vit_base_patch\d+_plus.*", 14),
    (r"vit_small_resnet.*", 8),
    (r"vit_so150m2_.*", 13),
    (r"vit_so150m_.*", 14),
    (r"\w+?_(large|huge|giant|giantopt|gigantic|so400m|intern300m)(_.*)?", 16),
    (r"\w+?_base(_.*)?", 12),
    (r"\w+?_betwixt(_.*)?", 10),
    (r"\w+?_mediumd?(_.*)?", 8),
    (r"\w+?_small(_.*)?", 6),
    (r"\w+?_little(_.*)?", 5),
    (r"\w+?_(wee|xsmall)(_.*)?", 4),
    (r"\w+?_tiny(_.*)?", 3),
)
_FAMILY = re.compile(r"(vit|deit|deit3|flexivit|eva_large|test_vit\d?|beit3)(_.+)?")
_OTHER = re.compile(r"vit_(?:dlittle|dwee|pwee|.*_xp|.*_radio|.*_(?:18x2|rpn|mci)|.*relpos).*")
_TANH = re.compile(
    r"vit_(?:base_patch32|so400m_patch16|giantopt_patch16)_siglip_.*"
    r"|vit_large_patch16_siglip_(?:gap_)?512"
)
_SILU = re.compile(r"vit_giant_patch14_(?:reg\d_)?(?:dinov2|tipsv2)")


@dataclass(frozen=True, kw_only=True)
class Known:
    """Properties of a timm model, known by its name."""

    heads: int
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"]
    norm_eps: float
    pool: Literal["token", "avg", "map"]


def known_name(architecture: str) -> Known | None:
    """Properties of the timm model of this name; None if it is not a plain Vision Transformer."""
    if not _FAMILY.fullmatch(architecture) or _OTHER.fullmatch(architecture):
        return None
    heads = next((n for pattern, n in _HEADS if re.fullmatch(pattern, architecture)), None)
    if heads is None:
        return None
    return Known(
        heads=heads,
        activation=_activation(architecture),
        norm_eps=1e-5 if "clip_" in architecture or "beit3" in architecture else 1e-6,
        pool=_pool(architecture),
    )


def _activation(architecture: str) -> Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"]:
    if "quickgelu" in architecture:
        return "quick_gelu"
    if _SILU.fullmatch(architecture):
        return "swiglu"
    return "gelu_tanh" if _TANH.fullmatch(architecture) else "gelu"


def _pool(architecture: str) -> Literal["token", "avg", "map"]:
    if "_gap_" in architecture or re.match(r"eva_large|beit3|test_vit[24]", architecture):
        return "avg"
    maps = "_map_" in architecture or "_siglip_" in architecture or architecture == "test_vit3"
    return "map" if maps else "token"
