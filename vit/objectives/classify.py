"""Learn the label: cross-entropy, with mixup and cutmix where the images are mixed."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vit.augment import mix_pairs
from vit.build import Device, Model, build_model
from vit.config import Config
from vit.losses import Loss, loss_fn, one_hot
from vit.objectives.objective import Asked


@dataclass(frozen=True, kw_only=True)
class Classify:
    """Classification of whole images."""

    config: Config
    form: Loss = "softmax"
    label_smoothing: float = 0.0
    mixes: bool = False
    """Whether training mixes images by the draws in the column `mix`."""

    measures = ("accuracy", "loss")
    hides = False

    def network(self, *, seed: int | None = 0, device: Device = "cpu") -> Model:
        """The model itself."""
        return build_model(self.config, seed=seed, device=device)

    def ask(
        self, images: Tensor, rows: Mapping[str, Tensor], keys: Tensor | None, *, training: bool
    ) -> Asked:
        """Targets are labels [m], or of mixed images distributions [m, classes]."""
        labels = rows["label"].to(images.device)
        if not (training and self.mixes):
            return Asked(images, labels)
        targets = one_hot(labels, self.config.num_classes)
        return Asked(*mix_pairs(images, targets, rows["mix"].to(images.device)))

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """The loss that the stage asks for."""
        return loss_fn(self.form, answers, targets, label_smoothing=self.label_smoothing)

    def measure(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Whether the first class is the right one, and the softmax cross-entropy in nats."""
        losses = F.cross_entropy(answers, targets, ignore_index=-1, reduction="none")  # [m]
        return torch.stack([(answers.argmax(dim=1) == targets).float(), losses], dim=1)

    def picture(self, asked: Asked, answers: Tensor) -> list[Tensor]:
        """Nothing."""
        return []
