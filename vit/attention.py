"""Where a Vision Transformer looks: attention maps, mean attention distance, rollout.

The model itself never holds its maps: its attention is fused (`scaled_dot_product_attention`). They
are computed again here from q and k, a block at a time, because all of them together take
depth x heads x T x T numbers an image.

Distances and rollout leave class and register tokens out, which have no place in the image.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from vit.blocks import Attention, Block
from vit.heads import AttentionPool
from vit.model import ViT


def attention_weights(attention: Attention, tokens: Tensor, rotary: Tensor | None = None) -> Tensor:
    """What each token attends to, before the values: normed [B, T, D] -> [B, heads, T, T].

    Rows are queries and sum to 1. `rotary` is the model's `rotary_table`.
    """
    q, k, _ = attention.queries_keys_values(tokens, rotary=rotary)  # each [B, heads, T, d]
    logits = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5  # [B, heads, T, T]
    bias = attention.logit_bias(q)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(dim=-1)


@torch.no_grad()
def attention_maps(model: ViT, images: Tensor) -> Iterator[Tensor]:
    """The attention of each block in turn: images [B, C, H, W] -> [B, heads, T, T], depth times.

    Raises ValueError if the model is in training mode, or the images do not have its size.
    """
    if model.training:
        raise ValueError(
            "the model is in training mode, where dropout changes its attention at random - call"
            " model.eval() first"
        )
    if images.shape[-2:] != model.config.image_hw:
        found, wanted = tuple(images.shape[-2:]), model.config.image_hw
        raise ValueError(f"images have {found} pixels, but the model takes {wanted}")
    tokens = model.embed(images)
    for block in model.blocks:
        assert isinstance(block, Block)
        yield attention_weights(block.attn, block.norm1(tokens), model.rotary_table)
        tokens = block(tokens, rotary=model.rotary_table)


def patch_distances(grid: tuple[int, int], patch_pixels: int) -> Tensor:
    """Pixels between the centres of two patches of a grid: float64 [h*w, h*w]."""
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in grid)
    place = torch.cartesian_prod(rows, columns).reshape(-1, 2)  # [h*w, 2], row by row
    # not torch.cdist, whose matrix product turns zeros into 1e-7
    difference = place[:, None] - place[None]  # [h*w, h*w, 2]
    return difference.square().sum(-1).sqrt() * patch_pixels


def mean_attention_distance(
    weights: Tensor, distances: Tensor, *, num_prefix_tokens: int
) -> Tensor:
    """How far the heads of a block look, in pixels: [B, heads, T, T] -> float64 [B, heads].

    The mean over the patches of the distance to what a patch attends to, weighted by the attention
    (figures 7 and 11 of arXiv:2010.11929). The weights are those among patches, scaled to sum to 1:
    otherwise a head that rests on the class token would seem to look nowhere far.

    Args:
        weights: attention of one block.
        distances: from `patch_distances`, [h*w, h*w].
        num_prefix_tokens: tokens in front of the patches.
    """
    among = weights[:, :, num_prefix_tokens:, num_prefix_tokens:].double()  # [B, heads, L, L]
    total = among.sum(-1).clamp_min(torch.finfo(torch.float64).tiny)  # [B, heads, L]
    far = (among * distances.to(among.device)).sum(-1)  # [B, heads, L]
    return (far / total).mean(-1)


def uniform_distance(distances: Tensor) -> float:
    """The distance in pixels of a head that attends to all patches alike."""
    return float(distances.mean())


@torch.no_grad()
def attention_rollout(model: ViT, images: Tensor) -> Tensor:
    """How much each patch reaches the head by way of attention: [B, C, H, W] -> [B, h, w].

    The maps, averaged over heads and mixed half and half with the identity that stands for the
    residual stream, are multiplied through all blocks (Abnar and Zuidema, arXiv:2005.00928; figure
    6 of arXiv:2010.11929). What the head reads is followed back: the class token's row, the mean of
    the patches' rows (gap), or the pooling attention's mix of rows (map). Rows sum to 1 before the
    prefix tokens' part is left out.
    """
    flow: Tensor | None = None  # [B, T, T]
    for weights in attention_maps(model, images):
        mean = weights.mean(dim=1)  # [B, T, T]
        step = 0.5 * (mean + torch.eye(mean.shape[-1], device=mean.device, dtype=mean.dtype))
        flow = step if flow is None else step @ flow
    assert flow is not None, "a model has at least one block"
    read = _read_by_head(model, images) @ flow  # [B, 1, T]
    return read[:, 0, model.num_prefix_tokens :].unflatten(1, model.grid_size)


def _read_by_head(model: ViT, images: Tensor) -> Tensor:
    """How much of each token the head takes: [B or 1, 1, T]."""
    if model.attn_pool is not None:
        pooled = pooling_weights(model.attn_pool, model.forward_features(images))
        return pooled.mean(dim=1)
    read = torch.zeros(1, 1, model.config.num_tokens, device=images.device, dtype=images.dtype)
    if model.config.pool == "token":
        read[..., : model.config.num_class_tokens] = 1 / model.config.num_class_tokens
        return read
    patches = model.config.num_tokens - model.num_prefix_tokens
    read[..., model.num_prefix_tokens :] = 1 / patches
    return read


def pooling_weights(pool: AttentionPool, tokens: Tensor) -> Tensor:
    """What the probe of a MAP head attends to: [B, T, D] -> [B, heads, 1, T]."""
    batch, length, width = tokens.shape
    size = width // pool.heads
    q = pool.q(pool.latent).reshape(1, pool.heads, 1, size)
    k = pool.kv(tokens).reshape(batch, length, 2, pool.heads, size)[:, :, 0].transpose(1, 2)
    return (q @ k.transpose(-2, -1) * size**-0.5).softmax(dim=-1)
