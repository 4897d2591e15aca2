"""Checkpoints as other people write them: timm's models with random weights, and their logits."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

import vit
from tests.vit.support.peers import import_timm, randomize

TINY = vit.ViTConfig(
    image_size=32,
    patch_size=8,
    width=48,
    depth=2,
    heads=3,
    mlp_dim=96,
    num_classes=7,
    gelu="exact",
)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def tiny_timm(**changes: Any) -> Any:
    """timm's ViT of `TINY`'s sizes, every parameter random."""
    arguments: dict[str, Any] = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 48,
        "depth": 2,
        "num_heads": 3,
        "mlp_ratio": 2,
        "num_classes": 7,
    }
    model = import_timm().models.VisionTransformer(**arguments | changes).eval()
    randomize(model)
    return model


def tiny_state(**changes: Any) -> dict[str, torch.Tensor]:
    """Its state dict."""
    return tiny_timm(**changes).state_dict()


def save(content: Any, path: Path) -> Path:
    """Write by `torch.save`."""
    torch.save(content, path)
    return path


def imported(
    path: Path, config: vit.Config, **options: Any
) -> tuple[vit.ViT | vit.BiT, tuple[str, ...]]:
    """The model of a checkpoint, ready to be asked, and the lines that were said."""
    weights, notes = vit.import_checkpoint(path, config, **options)
    model = vit.build_model(config).eval()
    model.load_state_dict(weights)
    return model, notes


def assert_same_logits(
    ours: nn.Module,
    theirs: nn.Module,
    *,
    size: tuple[int, int] = (32, 32),
    mean: tuple[float, ...] = (0.5, 0.5, 0.5),
    std: tuple[float, ...] = (0.5, 0.5, 0.5),
) -> None:
    """Equal logits for the same pictures, each normalised as its model wants them."""
    pixels = torch.rand(2, len(mean), *size, generator=torch.Generator().manual_seed(1))
    shape = (-1, 1, 1)
    there = (pixels - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    with torch.no_grad():
        found, wanted = ours(2 * pixels - 1), theirs.eval()(there)
    scale = max(1.0, wanted.abs().max().item())
    torch.testing.assert_close(found, wanted, atol=2e-5 * scale, rtol=0)
