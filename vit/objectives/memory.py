"""Bytes that training without labels needs for a micro-batch beside weights and gradients.

In closed form from the same terms as `vit.memory`; a test counts what autograd saves.
"""

from vit.config import ViTConfig
from vit.memory import blocks_bytes, embedding_bytes, forward_bytes, loss_bytes, norm_bytes
from vit.objectives.mae import decoder_config
from vit.objectives.masked import Hiding, Masked, hidden_patches
from vit.objectives.masked_patch import LEVELS


def pretext_bytes(
    kind: Hiding,
    config: ViTConfig,
    masked: Masked,
    batch: int,
    *,
    element_bytes: int,
    checkpointing: bool = False,
) -> int:
    """Activations, their gradients at the peak, and the loss.

    Args:
        kind: `masked-patch` or `mae`.
        config: of the model.
        masked: what is hidden.
        batch: images in a micro-batch.
        element_bytes: of an activation.
        checkpointing: the encoder's blocks keep only their input. The decoder's keep everything.
    """
    element, width, tokens = element_bytes, config.width, config.num_tokens
    kept, hidden = embedding_bytes(config, element), hidden_patches(kind, config, masked)
    if kind == "masked-patch":
        kept += blocks_bytes(config, tokens, tokens, element, checkpointing)
        kept += norm_bytes(config, tokens, element)
        kept += 4 * hidden * width  # the colours' layer computes in float32
        widest = tokens * (config.mlp_dim + 2 * width) * element
        return batch * (kept + widest) + loss_bytes(hidden * LEVELS**config.in_channels, batch)
    decoder, visible = decoder_config(config, masked), tokens - hidden
    kept += blocks_bytes(config, visible, visible, element, checkpointing)
    kept += norm_bytes(config, visible, element)
    kept += visible * width * element  # the decoder's first layer: its input
    kept += blocks_bytes(decoder, tokens, tokens, element, checkpointing=False)
    kept += norm_bytes(decoder, hidden, element) + hidden * decoder.width * element  # last layer
    pixels = config.patch_pixels**2 * config.in_channels
    kept += 3 * 4 * hidden * pixels  # float32 answers, targets, their difference
    widest = max(visible * (config.mlp_dim + 2 * width), tokens * 6 * decoder.width) * element
    return batch * (kept + widest)


def asking_bytes(
    kind: Hiding, config: ViTConfig, masked: Masked, batch: int, *, element_bytes: int
) -> int:
    """Bytes that an evaluation holds: it asks about hidden patches, then computes features."""
    hidden = hidden_patches(kind, config, masked)
    passing = forward_bytes(config, batch, element_bytes=element_bytes)
    if kind == "masked-patch":
        return passing + loss_bytes(hidden * LEVELS**config.in_channels, batch)
    decoding = forward_bytes(decoder_config(config, masked), batch, element_bytes=element_bytes)
    pixels = config.patch_pixels**2 * config.in_channels
    # In float32 beside the larger of the two: answers, targets, their difference.
    return max(passing, decoding) + 3 * 4 * batch * hidden * pixels
