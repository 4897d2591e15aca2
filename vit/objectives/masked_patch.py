"""Masked patch prediction, the paper's own self-supervision (B.1.2 of arXiv:2010.11929).

Half of the patch embeddings are corrupted: 80 % of these become a learned mask token, 10 % another
patch's embedding, 10 % stay. From the representation of each the network predicts its mean colour,
in 3 bits a channel: 512 classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit.build import Device, filled
from vit.config import ViTConfig
from vit.cost import Cost
from vit.heads import Head
from vit.init import lecun_normal_
from vit.layers import new_parameter
from vit.model import ViT
from vit.objectives.hiding import patch_order, replacements, take
from vit.objectives.masked import Masked, hidden_patches, patches_of
from vit.objectives.objective import Asked
from vit.objectives.patches import painted, patch_pixels

LEVELS = 8  # 3 bits


class MaskToken(nn.Module):
    """Replaces patch embeddings by each other, or by a learned one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = new_parameter(1, 1, width)

    def forward(self, patches: Tensor, source: Tensor) -> Tensor:
        """[B, L, D], int64 [B, L] -> [B, L, D]; a source of -1 is the mask token."""
        replaced = take(patches, source.clamp_min(0))
        return torch.where(source[:, :, None] < 0, self.token.to(patches.dtype), replaced)


class MaskedPatchViT(ViT):
    """A ViT that predicts the colours of corrupted patches."""

    def __init__(self, config: ViTConfig, hidden: int) -> None:
        super().__init__(config)
        self.hidden = hidden
        self.pretext = nn.ModuleDict(
            {
                "mask": MaskToken(config.width),
                "colours": Head(config.width, LEVELS**config.in_channels),
            }
        )

    def forward(
        self,
        images: Tensor,
        keys: Tensor | None = None,
        source: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Float32 logits of the colours, [B, n, 8^C]; without hints the features [B, D].

        Args:
            images: normalised, [B, C, H, W].
            keys: as in `ViT`.
            source: which patch stands in the place of each, from `replacements`: int64 [B, L].
            hidden: the patches to predict: int64 [B, n].
        """
        if source is None or hidden is None:
            return super().forward(images, keys)
        draws = self.draws(images, keys)
        patches = self.pretext["mask"](self.cut(images), source)
        tokens = self.run_blocks(self.embed_patches(patches, draws), draws=draws)
        return self.pretext["colours"](take(tokens[:, self.num_prefix_tokens :], hidden))

    def cost(self) -> Cost:
        """Parameters and multiply-adds, with those of the colours' layer."""
        own = super().cost()
        colours = self.hidden * self.config.width * LEVELS**self.config.in_channels
        return replace(own, forward_macs=own.forward_macs + colours)


@dataclass(frozen=True, kw_only=True)
class MaskedPatch:
    """Prediction of the mean colour of corrupted patches."""

    config: ViTConfig
    masked: Masked

    measures = ("colour_accuracy", "loss")
    hides = True

    @property
    def hidden(self) -> int:
        """Patches to predict of an image."""
        return hidden_patches("masked-patch", self.config, self.masked)

    def network(self, *, seed: int | None = 0, device: Device = "cpu") -> MaskedPatchViT:
        """A ViT with a mask token and a layer for the colours."""

        def pretext(name: str, tensor: Tensor, generator: torch.Generator) -> None:
            if name == "mask.token":
                nn.init.normal_(tensor, std=0.02, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(tensor)
            else:
                lecun_normal_(tensor, generator)

        return filled(
            lambda: MaskedPatchViT(self.config, self.hidden),
            self.config,
            seed=seed,
            device=device,
            pretext=pretext,
        )

    def ask(
        self, images: Tensor, rows: Mapping[str, Tensor], keys: Tensor | None, *, training: bool
    ) -> Asked:
        """Targets are colours, int64 [m, n]."""
        assert keys is not None, "what is hidden of a sample follows from its key"
        order = patch_order(keys, patches_of(self.config))
        hidden = order[:, : self.hidden]
        colours = take(colour_classes(images, self.config)[:, :, None], hidden).squeeze(2)
        return Asked(images, colours, (replacements(keys, order, self.hidden), hidden))

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats, the mean over the corrupted patches."""
        return F.cross_entropy(answers.flatten(0, 1), targets.flatten())

    def measure(self, answers: Tensor, targets: Tensor) -> Tensor:
        """The share of the patches whose colour is right, and the loss."""
        losses = F.cross_entropy(answers.transpose(1, 2), targets, reduction="none")  # [m, n]
        right = (answers.argmax(dim=2) == targets).float()
        return torch.stack([right.mean(dim=1), losses.mean(dim=1)], dim=1)

    def picture(self, asked: Asked, answers: Tensor) -> list[Tensor]:
        """The images, what is left of them, and the predicted colours in the gaps."""
        hidden, channels = asked.hints[1], self.config.in_channels
        found = colour_of(answers.argmax(dim=2), channels)  # [m, n, C]
        area = self.config.patch_pixels**2
        flat = found[:, :, None, :].expand(-1, -1, area, -1).flatten(2)
        grey = torch.zeros_like(flat)
        return [
            asked.images,
            painted(asked.images, hidden, grey, self.config),
            painted(asked.images, hidden, flat, self.config),
        ]


def colour_classes(images: Tensor, config: ViTConfig) -> Tensor:
    """The mean colour of each patch, 3 bits a channel: [B, C, H, W] in [-1, 1] -> int64 [B, L]."""
    mean = patch_pixels(images, config).unflatten(2, (-1, config.in_channels)).mean(dim=2)
    bits = ((mean + 1) * (LEVELS / 2)).long().clamp(0, LEVELS - 1)  # [B, L, C]
    weights = LEVELS ** torch.arange(config.in_channels - 1, -1, -1, device=images.device)
    return (bits * weights).sum(dim=2)


def colour_of(classes: Tensor, channels: int) -> Tensor:
    """The middle of a colour's range: int64 [...] -> float32 [..., C] in [-1, 1]."""
    weights = LEVELS ** torch.arange(channels - 1, -1, -1, device=classes.device)
    bits = classes[..., None] // weights % LEVELS
    return (bits + 0.5) * (2 / LEVELS) - 1
