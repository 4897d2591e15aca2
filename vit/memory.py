"""Bytes that a forward pass keeps for the backward pass, per micro-batch, in closed form.

Each term names the operation that saves it; `tests/vit/test_memory.py` counts what autograd really
saves, all but RMSNorm, which a CPU computes from smaller operations. A tensor that several
operations save counts once: q, k and v are views of one matrix. Attention is fused, so no [T, T]
matrix is kept, except with relative positions, where it is not fused.

A ResNet (BiT, the hybrids' stem) has no short formula: its forward pass is run on the meta device,
which has shapes and no memory, and the bytes it saves are counted.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from vit.config import RELATIVE, BiTConfig, Config, ViTConfig
from vit.embed import PatchEmbed
from vit.resnet import BiT

# Hidden units that an MLP keeps: the input of GELU and of fc2; of quick GELU also the sigmoid; in a
# SwiGLU the input and output of SiLU, what it is multiplied with, and the input of fc2.
_HIDDEN = {(mlp, gelu): 4 if mlp == "swiglu" else 3 if gelu == "quick" else 2
           for mlp in ("gelu", "swiglu") for gelu in ("tanh", "exact", "quick")}  # fmt: skip


def activation_bytes(
    config: Config, batch: int, *, element_bytes: int, checkpointing: bool = False
) -> int:
    """Bytes that autograd keeps from the images to the logits, without the weights.

    Args:
        config: the model.
        batch: images in a micro-batch.
        element_bytes: bytes of one element of an activation: 4 in float32, 2 in bfloat16.
        checkpointing: blocks keep only their input, and one at a time is computed again.
    """
    if isinstance(config, BiTConfig):
        return _of_resnet(config, batch, element_bytes)
    kept = embedding_bytes(config, element_bytes) + _end(config, element_bytes)
    tail = config.num_class_tokens or config.num_tokens
    kept += blocks_bytes(config, config.num_tokens, tail, element_bytes, checkpointing)
    once = _of_resnet(config, batch, element_bytes) if config.stem_blocks else 0
    if element_bytes < 4:  # a head computes in float32: a copy of its kernel
        once += 4 * config.num_classes * config.width * (1 + config.distilled)
    if config.rotary != "none":  # the table, which all blocks share
        once += 2 * config.num_tokens * config.width // config.heads * element_bytes
    return batch * kept + once


def workspace_bytes(config: Config, batch: int, *, element_bytes: int) -> int:
    """Bytes of the gradients that exist at the peak of the backward pass.

    The peak is at the MLP of the last block that has all tokens: the gradient of its hidden units,
    that of the residual stream, and the one being made from it. If the head reads one token, the
    last block's activations are free by then, whose norm, q, k and v were of all tokens. In a
    ResNet: the largest feature map's gradient, and the one made from it.
    """
    if isinstance(config, BiTConfig):
        height, breadth = config.image_hw
        return (
            2 * batch * (height // 4) * (breadth // 4) * 256 * config.width_factor * element_bytes
        )
    made = config.mlp_dim * (1 if config.mlp == "gelu" else 3) + 2 * config.width
    if config.pool == "token" and config.depth > 1:
        made = max(0, made - 5 * config.width)
    at_mlp = config.num_tokens * made * element_bytes
    if config.pos_embed not in RELATIVE:
        return batch * at_mlp
    # Attention is not fused: the gradients of its weights and of its logits, in float32.
    pairs = 2 * 4 * config.heads * config.num_tokens**2
    return batch * max(at_mlp, pairs + config.num_tokens * 2 * config.width * element_bytes)


def forward_bytes(config: Config, batch: int, *, element_bytes: int) -> int:
    """Bytes of a forward pass that keeps nothing for a backward pass, with the images in float32.

    The peak is at the MLP of a block, which holds the stream (twice: its caller holds it too), what
    attention added, the norm, and the hidden units; with relative positions, or few hidden units,
    at attention. In a ResNet it is at the largest feature map, of which less than four exist.
    """
    height, breadth = config.image_hw
    source = batch * config.in_channels * height * breadth * (4 + element_bytes % 4)
    largest_map = (height // 4) * (breadth // 4) * 256 * element_bytes
    if isinstance(config, BiTConfig):
        return source + batch * 4 * largest_map * config.width_factor
    hidden = _HIDDEN[config.mlp, config.gelu] * config.mlp_dim
    at_attention = config.num_tokens * 9 * config.width
    if config.pos_embed == "relative":  # a bias for each image
        at_attention += 4 * config.heads * config.num_tokens**2
    at_block = max(config.num_tokens * (4 * config.width + hidden), at_attention) * element_bytes
    return source + batch * max(at_block, 4 * largest_map if config.stem_blocks else 0)


def loss_bytes(classes: int, batch: int) -> int:
    """Bytes of the loss: float32 logits, their log-softmax (or the targets), and the gradient."""
    return 3 * 4 * batch * classes


def embedding_bytes(config: ViTConfig, element: int) -> int:
    """Bytes per image of the patch embedding's input (a hybrid's is counted with its stem) and of
    dropout's mask."""
    rows, columns = config.grid_size
    pixels = rows * columns * config.patch_size**2
    source = 0 if config.stem_blocks else config.in_channels * pixels * element
    normed = config.num_tokens * (config.width + _statistics(config)) * element
    masks = config.num_tokens * config.width if config.dropout else 0  # a byte an element
    return source + config.pre_norm * normed + masks


def norm_bytes(config: ViTConfig, tokens: int, element: int) -> int:
    """Bytes per image of a norm of so many tokens: its input."""
    return tokens * (config.width + _statistics(config)) * element


def blocks_bytes(
    config: ViTConfig, tokens: int, tail: int, element: int, checkpointing: bool
) -> int:
    """Bytes per image of all blocks.

    Args:
        config: of the model.
        tokens: that go through the blocks.
        tail: that come out of the last one.
        element: bytes of an element of an activation.
        checkpointing: as in `activation_bytes`.
    """
    lengths = [tokens] * (config.depth - 1) + [tail]
    blocks = [_block(config, tokens, length, element) for length in lengths]
    if checkpointing:
        stream = tokens * config.width * element
        return config.depth * stream + max(blocks) - stream
    return sum(blocks)


def _block(config: ViTConfig, tokens: int, kept: int, element: int) -> int:
    """Bytes per image of one block that computes only the first `kept` tokens after attention."""
    width, hidden = config.width, config.mlp_dim
    statistics = _statistics(config)
    every = width + statistics  # norm1: its input
    every += width  # qkv: its input
    some = width  # attention and proj: the output of attention
    some += config.attn_norm * (width + statistics)  # its norm: the output of attention
    some += width + statistics  # norm2: its input
    some += width  # fc1: its input
    some += _HIDDEN[config.mlp, config.gelu] * hidden
    some += config.mlp_norm * (hidden + statistics)  # its norm: its input
    some += config.layer_scale * 2 * width  # its inputs
    if config.qk_norm or config.rotary != "none":
        every += width  # attention: the new k
        some += width  # and q
    if config.qk_norm:
        every += config.heads * statistics
        some += config.heads * statistics
        some += width  # proj: a copy of attention's output, whose memory has the layout of q
    masks = kept * (2 * width + hidden) if config.dropout else 0  # a byte an element
    if config.pos_embed in RELATIVE:  # the bias needs a gradient, so attention is not fused
        # In float32 whatever the precision: scaled k, v; scaled q and the weights.
        logits = 4 * (2 * tokens * width + kept * (width + config.heads * tokens))
        if config.pos_embed == "relative":
            some += width + config.heads * (2 * tokens - 1)  # q of the bias; logits by distance
    else:
        every += 3 * width  # attention: q, k, v, views of one matrix
        logits = 4 * config.heads * kept  # float32, the log-sum of each query's weights
    return (tokens * every + kept * some) * element + logits + masks


def _end(config: ViTConfig, element: int) -> int:
    """Bytes per image of the layers after the blocks."""
    width, tokens = config.width, config.num_tokens
    normed = 1 if config.fc_norm else config.num_class_tokens or tokens
    numbers = normed * (width + _statistics(config))  # norm: its input
    if config.pool == "map":
        numbers += tokens * width + 2 * tokens * width  # kv: its input; attention: k, v
        hidden = _HIDDEN["gelu", config.gelu] * config.mlp_dim
        numbers += 5 * width + _statistics(config) + hidden  # the probe's own, one token
    if config.head == "mlp":
        numbers += width  # pre_logits: its input
    # heads: their input, in float32
    return numbers * element + 4 * width * (1 + config.distilled)


def _statistics(config: ViTConfig) -> int:
    """Numbers that a norm keeps of each token: reciprocal deviation, and the mean in LayerNorm."""
    return 2 if config.norm == "layer" else 1


def _of_resnet(config: Config, batch: int, element: int) -> int:
    """Bytes per batch of a ResNet: those of the first image, with the standardised weights, and
    those that each further image adds."""
    one, two = (counted_bytes(config, images, element_bytes=element) for images in (1, 2))
    return one + (batch - 1) * (two - one)


@lru_cache(maxsize=32)
def counted_bytes(config: Config, batch: int, *, element_bytes: int) -> int:
    """Bytes that a ResNet keeps (of a hybrid, its stem and the patches), counted on shapes."""
    dtype = {4: torch.float32, 2: torch.bfloat16}[element_bytes]
    with torch.device("meta"):
        module = BiT(config) if isinstance(config, BiTConfig) else PatchEmbed(config)
        images = torch.empty(batch, config.in_channels, *config.image_hw, dtype=dtype)
    return saved_bytes(module.to(dtype).train(), lambda: module(images))


def saved_bytes(module: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd saves in `forward`, each storage once, without the weights."""
    own = {tensor.untyped_storage()._cdata for tensor in module.parameters()}  # pyright: ignore[reportPrivateUsage]  # on the meta device nothing else tells storages apart
    found: dict[int, Tensor] = {}  # keeps the tensors alive, so that no address is used twice

    def saw(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]
        if memory not in own:
            found[memory] = tensor
        return tensor

    with saved_tensors_hooks(saw, lambda tensor: tensor):
        result = forward()
    del result
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())
