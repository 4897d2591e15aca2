"""Masked autoencoder (arXiv:2111.06377): see a quarter of the patches, predict the others' pixels.

The encoder runs on the visible patches only. The decoder, thrown away afterwards, gets their
representations and a mask token for each hidden patch, all with their positions. Attention does not
depend on the order of its tokens, so they are not put back into the order of the image.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vit.blocks import Block
from vit.build import Device, filled
from vit.config import ViTConfig
from vit.cost import Cost, macs_of_blocks
from vit.embed import sincos_table
from vit.init import init_tensor_
from vit.layers import new_parameter, norm_layer
from vit.model import ViT
from vit.objectives.hiding import patch_order, take
from vit.objectives.masked import Masked, hidden_patches, patches_of
from vit.objectives.objective import Asked
from vit.objectives.patches import painted, patch_pixels

_EPSILON = 1e-6  # of a patch's variance, as in the authors' code


def decoder_config(config: ViTConfig, masked: Masked) -> ViTConfig:
    """The decoder's blocks as a config: they see as many tokens as the whole encoder would."""
    return ViTConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        drop_rest=config.drop_rest,
        in_channels=config.in_channels,
        pos_embed="sincos-2d",
        registers=config.registers,
        pool=config.pool,
        width=masked.decoder_width,
        depth=masked.decoder_depth,
        heads=masked.decoder_heads,
        mlp_dim=4 * masked.decoder_width,
        gelu=config.gelu,
        norm_eps=config.norm_eps,
        num_classes=0,
    )


class Decoder(nn.Module):
    """From the representations of visible patches to the pixels of the hidden ones."""

    pos_table: Tensor

    def __init__(self, config: ViTConfig, masked: Masked, hidden: int) -> None:
        super().__init__()
        self.config = decoder_config(config, masked)
        self.hidden = hidden
        width = self.config.width
        self.embed = nn.Linear(config.width, width)
        self.mask_token = new_parameter(1, 1, width)
        places = torch.empty(1, patches_of(config), width)
        self.register_buffer("pos_table", places, persistent=False)
        self.blocks = nn.ModuleList(
            Block(self.config, drop_path=0.0) for _ in range(self.config.depth)
        )
        self.norm = norm_layer(self.config, width)
        self.pixels = nn.Linear(width, config.patch_pixels**2 * config.in_channels)

    def forward(self, tokens: Tensor, order: Tensor) -> Tensor:
        """[B, P + V, D] of prefix and visible patches -> [B, n, p*p*C] of the hidden ones.

        Args:
            tokens: from the encoder; the visible patches in the order of `order`.
            order: all patches, the n hidden ones first: int64 [B, L].
        """
        batch, seen = len(order), order.shape[1] - self.hidden
        embedded = self.embed(tokens)  # [B, P + V, W]
        prefix = embedded.shape[1] - seen
        places = self.pos_table.to(embedded.dtype).expand(batch, -1, -1)
        places = take(places, order)
        visible = embedded[:, prefix:] + places[:, self.hidden :]
        asked = self.mask_token.to(embedded.dtype) + places[:, : self.hidden]
        tokens = torch.cat([embedded[:, :prefix], visible, asked], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.pixels(self.norm(tokens[:, -self.hidden :]))


class MaskedAutoencoder(ViT):
    """A ViT that sees part of the patches, with a decoder that predicts the others."""

    def __init__(self, config: ViTConfig, masked: Masked, hidden: int) -> None:
        super().__init__(config)
        self.hidden = hidden
        self.pretext = Decoder(config, masked, hidden)

    def forward(
        self, images: Tensor, keys: Tensor | None = None, order: Tensor | None = None
    ) -> Tensor:
        """Pixels of the hidden patches, [B, n, p*p*C]; without `order` the features [B, D].

        Args:
            images: normalised, [B, C, H, W].
            keys: as in `ViT`.
            order: all patches, the n hidden ones first: int64 [B, L].
        """
        if order is None:
            return super().forward(images, keys)
        draws = self.draws(images, keys)
        tokens = self.embed(images, draws)
        prefix = self.num_prefix_tokens
        seen = take(tokens[:, prefix:], order[:, self.hidden :])
        tokens = torch.cat([tokens[:, :prefix], seen], dim=1)
        return self.pretext(self.run_blocks(tokens, draws=draws), order)

    def cost(self) -> Cost:
        """Parameters, and multiply-adds of the visible patches and of the decoder."""
        own, config, decoder = super().cost(), self.config, self.pretext.config
        tokens, hidden = config.num_tokens, self.hidden
        macs = own.forward_macs - macs_of_blocks(config, tokens)
        macs += macs_of_blocks(config, tokens - hidden)
        macs += (tokens - hidden) * config.width * decoder.width
        macs += macs_of_blocks(decoder, decoder.num_tokens)
        macs += hidden * decoder.width * self.pretext.pixels.out_features
        return replace(own, forward_macs=macs)


@dataclass(frozen=True, kw_only=True)
class Mae:
    """Reconstruction of the pixels of hidden patches."""

    config: ViTConfig
    masked: Masked

    measures = ("loss",)
    hides = True

    @property
    def hidden(self) -> int:
        """Patches to predict of an image."""
        return hidden_patches("mae", self.config, self.masked)

    def network(self, *, seed: int | None = 0, device: Device = "cpu") -> MaskedAutoencoder:
        """A ViT with a decoder."""
        decoder = decoder_config(self.config, self.masked)

        def pretext(name: str, tensor: Tensor, generator: torch.Generator) -> None:
            if name == "pos_table":
                tensor.copy_(sincos_table(decoder.grid_size, tensor.shape[-1]))
            elif name == "mask_token":
                nn.init.normal_(tensor, std=0.02, generator=generator)
            elif name in ("embed.weight", "pixels.weight"):
                nn.init.xavier_uniform_(tensor, generator=generator)
            else:
                init_tensor_(name, tensor, decoder, generator)

        return filled(
            lambda: MaskedAutoencoder(self.config, self.masked, self.hidden),
            self.config,
            seed=seed,
            device=device,
            pretext=pretext,
        )

    def ask(
        self, images: Tensor, rows: Mapping[str, Tensor], keys: Tensor | None, *, training: bool
    ) -> Asked:
        """Targets are the pixels of the hidden patches, float32 [m, n, p*p*C]."""
        assert keys is not None, "what is hidden of a sample follows from its key"
        order = patch_order(keys, patches_of(self.config))
        pixels = take(patch_pixels(images, self.config), order[:, : self.hidden])
        if self.masked.normalize:
            mean, deviation = _statistics(pixels)
            pixels = (pixels - mean) / deviation
        return Asked(images, pixels, (order,))

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error over the pixels of the hidden patches."""
        return (answers - targets).square().mean()

    def measure(self, answers: Tensor, targets: Tensor) -> Tensor:
        """The loss of each image."""
        return (answers - targets).square().mean(dim=(1, 2))[:, None]

    def picture(self, asked: Asked, answers: Tensor) -> list[Tensor]:
        """The images, what the encoder sees of them, and the predicted pixels in the gaps.

        Predictions of normalised pixels are put back by the true patch's mean and deviation.
        """
        hidden = asked.hints[0][:, : self.hidden]
        pixels = answers
        if self.masked.normalize:
            mean, deviation = _statistics(take(patch_pixels(asked.images, self.config), hidden))
            pixels = answers * deviation + mean
        return [
            asked.images,
            painted(asked.images, hidden, torch.zeros_like(pixels), self.config),
            painted(asked.images, hidden, pixels.clamp(-1, 1), self.config),
        ]


def _statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each patch: [m, n, p*p*C] -> twice [m, n, 1]."""
    mean, variance = pixels.mean(dim=2, keepdim=True), pixels.var(dim=2, keepdim=True)
    return mean, (variance + _EPSILON).sqrt()
