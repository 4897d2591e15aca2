"""Guess from tensor names why a checkpoint does not fit."""

import re
from collections.abc import Iterable

# Parts that only models of other families have, by the names of their tensors.
_FAMILIES = (
    (r".*(?:norm_pre|ln_pre|pre_layrnorm)\..+", "a norm before the blocks (CLIP)"),
    (r".*transformer\.resblocks\.\d+\..+", "CLIP's image tower, with a norm before the blocks"),
    (r".*vision_model\.encoder\.layers\.\d+\..+", "Hugging Face's CLIP or SigLIP tower"),
    (r".*(?:rel_pos_bias|relative_position_bias|rel_pos_[hw]).*", "relative positions (BEiT, SAM)"),
    (r".*(?:rope|freqs_cis|periods).*", "rotary positions (EVA-02, DINOv3)"),
    (r".*(?:fc1_[gx]|mlp\.w12|mlp\.w[123]|weights_in|gate_proj)\..+", "a gated MLP (SwiGLU)"),
    (r".*attn\.(?:q_norm|k_norm|query_norm|key_norm)\..+", "norms of queries and keys"),
    (r".*(?:attn|mlp)\.norm\..+", "norms inside attention and MLP (EVA, BEiT-3)"),
    (r".*attn\.(?:q_bias|v_bias)", "biases of q and v alone (BEiT, EVA)"),
    (r".*attn\.lambda_[qk][12]", "differential attention"),
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
