"""Guess from tensor names why a checkpoint does not fit."""

import re
from collections.abc import Iterable

# Parts that only models of other families have, by the names of their tensors.
_FAMILIES = (
    (
        r".*(?:layers\.\d+\.blocks\..*relative_position_bias|rel_pos_[hw]).*",
        "relative positions within windows (Swin, SAM)",
    ),
    (r".*(?:rope|freqs_cis|periods).*", "rotary positions as tensors"),
    (r".*mlp\.w[123]\..+", "the names of EVA-02's or DINOv3's authors"),
    (r".*attn\.lambda_[qk][12]", "differential attention"),
    (r".*attn\.gate\..+", "gated attention"),
    (r".*(?:attns|ffns|in_proj|mlp_out_proj)\.?.*", "blocks of parallel layers"),
    (r"(?:.*\.)?(?:layer[1-4]|conv1|bn1)\..+", "a convolutional network"),
)


def unsupported(names: Iterable[str]) -> str | None:
    """Say which unsupported part a model has, or None if no tensor name shows one."""
    names = list(names)
    found = [
        what
        for pattern, what in _FAMILIES
        if any(re.fullmatch(pattern, name) is not None for name in names)
    ]
    if not found:
        return None
    return f"the checkpoint has {', '.join(found[:2])}, which is not supported"
