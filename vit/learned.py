"""What weights show without data: patch embedding filters and similarity of the positions."""

import torch
from torch import Tensor
from torch.nn import functional as F

from vit.config import RELATIVE, BiTConfig, Config
from vit.model import ViT


def missing_filters(config: Config) -> str | None:
    """The reason why a model has no filters over pixels, or None if it has them."""
    if isinstance(config, BiTConfig):
        return "a BiT ResNet has no patch embedding"
    if config.stem_blocks:
        return "a hybrid cuts its patches from a ResNet's feature map, not from pixels"
    return None


def principal_filters(model: ViT, count: int = 28) -> tuple[Tensor, Tensor]:
    """Principal components of the patch embedding: [n, C, p, p], and their share of the variance.

    The D filters are points in C*p*p dimensions; their components are the directions in which they
    differ most (figure 7, left, of arXiv:2010.11929). Each component is float64, of unit length and
    has its entry of largest magnitude positive. n is at most `count` and at most the rank.
    """
    kernel = model.patch_embed.proj.weight.detach().double()  # [D, C, p, p]
    flat = kernel.flatten(1)
    _, singular, components = torch.linalg.svd(flat - flat.mean(dim=0), full_matrices=False)
    variance = singular.square()
    rank = int((singular > singular[0] * 1e-10).sum())
    components = components[: min(count, rank)]  # [n, C*p*p]
    at = components.abs().argmax(dim=1, keepdim=True)
    components = components * components.gather(1, at).sign()
    share = variance[: len(components)] / variance.sum().clamp_min(torch.finfo(variance.dtype).tiny)
    return components.reshape(-1, *kernel.shape[1:]), share


def missing_positions(config: Config) -> str | None:
    """The reason why a model has no position table, or None if it has one."""
    if isinstance(config, BiTConfig):
        return "a BiT ResNet has no position embedding"
    if config.pos_embed == "none":
        return "the model has no position embedding"
    if config.pos_embed in RELATIVE:
        return "relative positions belong to pairs of tokens: no position has a vector of its own"
    return None


def position_table(model: ViT) -> Tensor | None:
    """The position embedding of each patch, [h, w, D]; None if the model has no table.

    Rows of prefix tokens are left out. If the table has two parts (learned-2d), the columns' half
    comes first, as in `embed`.
    """
    grid = model.grid_size
    if model.pos_embed is not None:
        rows = model.pos_embed.detach()[0, -grid[0] * grid[1] :]
        return rows.unflatten(0, grid)
    if model.pos_table is not None:
        return model.pos_table[0].unflatten(0, grid)
    if model.pos_embed_y is not None and model.pos_embed_x is not None:
        y = model.pos_embed_y.detach()[0].expand(-1, grid[1], -1)  # [h, w, D/2]
        x = model.pos_embed_x.detach()[0].expand(grid[0], -1, -1)
        return torch.cat([x, y], dim=-1)
    return None


def position_similarity(table: Tensor) -> Tensor:
    """Cosine similarity of every position to every other: [h, w, D] -> float64 [h, w, h, w].

    Source: figure 7, centre, of arXiv:2010.11929.
    """
    rows, columns, _ = table.shape
    unit = F.normalize(table.double().flatten(0, 1), dim=-1)  # [h*w, D]
    return (unit @ unit.T).clamp(-1, 1).reshape(rows, columns, rows, columns)
