"""Properties of timm's models that only their name shows, not the tensors or config.json.

timm defines heads, GELU and epsilon in its code, under the name that config.json calls
`architecture`. The tests compare this table with timm itself, name by name.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from vit.config import Rotary

# Number of heads by name.
_HEADS = (
    (r"test_vit2?", 2),
    (r"test_vit[34]", 3),
    (r"vit_base_patch16_gap_.*", 16),
    (r"vit_giant_patch14_(reg\d_)?(dinov2|tipsv2)", 24),
    (r"vit_giant_patch16_lingbot", 24),
    (r"vit_huge_plus_patch16_dinov3(_qkvb)?", 20),
    (r"vit_7b_patch16_dinov3", 32),
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
_FAMILY = re.compile(r"(vit|deit|deit3|flexivit|eva|eva02|test_vit\d?|beit|beitv2|beit3)(_.+)?")
_OTHER = re.compile(r"vit_(?:dlittle|dwee|pwee|.*_xp|.*_radio|.*_(?:18x2|rpn|mci)|.*relpos).*")
# Names of models with parts that models here have not, and what these are.
_REFUSED = (
    (r"vit_.*_rope_(?:mixed_|ape_|mixed_ape_)?\d+", "rotary positions of columns before rows"),
    (r"vit_pe_.*", "rotary positions that begin at 1 (Perception Encoder)"),
    (r"vit_.*_sapiens2", "keys and values that queries share (Sapiens2)"),
    (r"eva02_enormous_.*", "norms after attention and MLP (EVA-02 enormous)"),
)
_AXIAL = re.compile(r"eva02_.*|vit_.*_rope_reg\d_gap_\d+")
_DINOV3 = re.compile(r"vit_.*_(?:dinov3|dinov3_qkvb|lingbot)")
_TANH = re.compile(
    r"vit_(?:base_patch32|so400m_patch16|giantopt_patch16)_siglip_.*"
    r"|vit_large_patch16_siglip_(?:gap_)?512"
)
_SILU = re.compile(r"vit_giant_patch14_(?:reg\d_)?(?:dinov2|tipsv2)")


@dataclass(frozen=True, kw_only=True)
class Turning:
    """Rotary positions of a model, by the names of our config's fields; none by default."""

    rotary: Rotary = "none"
    rotary_temperature: float = 10_000.0
    rotary_reference: int = 0


@dataclass(frozen=True, kw_only=True)
class Known:
    """Properties of a timm model, known by its name."""

    heads: int
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"]
    norm_eps: float
    pool: Literal["token", "avg", "map"]
    turning: Turning = field(default_factory=Turning)


def refused_name(architecture: str) -> str | None:
    """What a timm model of this name has and models here have not; None if nothing is known."""
    found = (what for pattern, what in _REFUSED if re.fullmatch(pattern, architecture))
    return next(found, None)


def known_name(architecture: str) -> Known | None:
    """Properties of the timm model of this name; None if it is not a plain Vision Transformer."""
    if not _FAMILY.fullmatch(architecture) or _OTHER.fullmatch(architecture):
        return None
    if refused_name(architecture):
        return None
    heads = next((n for pattern, n in _HEADS if re.fullmatch(pattern, architecture)), None)
    if heads is None:
        return None
    return Known(
        heads=heads,
        activation=_activation(architecture),
        norm_eps=_norm_eps(architecture),
        pool=_pool(architecture),
        turning=_turning(architecture),
    )


def _norm_eps(architecture: str) -> float:
    clip = "clip_" in architecture and not architecture.startswith("eva")
    return 1e-5 if clip or "beit3" in architecture or _DINOV3.fullmatch(architecture) else 1e-6


def _turning(architecture: str) -> Turning:
    if _DINOV3.fullmatch(architecture):
        return Turning(rotary="dinov3", rotary_temperature=100.0)
    if _AXIAL.fullmatch(architecture):
        return Turning(rotary="axial", rotary_reference=16)
    return Turning()


def _activation(architecture: str) -> Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"]:
    if "quickgelu" in architecture:
        return "quick_gelu"
    plus = r"vit_(?:.*_plus_.*|7b_.*)_dinov3(?:_qkvb)?|vit_giant_.*_lingbot"
    if _SILU.fullmatch(architecture) or re.fullmatch(rf"eva02_.*|{plus}", architecture):
        return "swiglu"
    return "gelu_tanh" if _TANH.fullmatch(architecture) else "gelu"


def _pool(architecture: str) -> Literal["token", "avg", "map"]:
    if re.match(r"eva.*_clip_", architecture):
        return "token"
    if "_gap_" in architecture or re.match(r"eva|beit|test_vit[24]", architecture):
        return "avg"
    if "_dinov3" in architecture:
        return "avg"
    maps = "_map_" in architecture or "_siglip_" in architecture or architecture == "test_vit3"
    return "map" if maps else "token"
