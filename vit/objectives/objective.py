"""What the training loop knows of an objective: which one it is makes no difference to it."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from vit.build import PRETEXT, Device, Model

Kind = Literal["classify", "masked-patch", "mae"]


def is_pretext(name: str) -> bool:
    """Whether a tensor of that name is the objective's own, and no part of the encoder."""
    return name.startswith(PRETEXT)


class Asked(NamedTuple):
    """What the network is asked about a micro-batch of m samples."""

    images: Tensor
    """Normalised, [m, C, H, W]."""
    targets: Tensor
    """The right answers, [m, ...]."""
    hints: tuple[Tensor, ...] = ()
    """What the network takes beside images and keys, each [m, ...]."""


class Objective(Protocol):
    """What a network learns of a sample, how it is measured, and what people can look at."""

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the numbers of `measure`."""
        ...

    @property
    def hides(self) -> bool:
        """Whether something of a sample is hidden, by its key, so that its label is not needed."""
        ...

    def network(self, *, seed: int | None = 0, device: Device = "cpu") -> Model:
        """The network that is trained, with its first weights; an encoder's as `build_model`'s.

        It is called as `network(images, keys, *hints)`, and without hints gives what `build_model`
        of the same config gives: logits, or features where there is no head. `seed=None` as there.
        """
        ...

    def ask(
        self, images: Tensor, rows: Mapping[str, Tensor], keys: Tensor | None, *, training: bool
    ) -> Asked:
        """What the network is asked about samples.

        Args:
            images: normalised, [m, C, H, W].
            rows: columns of the samples, on any device: `label` [m], and for mixed images `mix`.
            keys: int64 [m] from `sample_keys`, where something is hidden.
            training: or evaluation, where no images are mixed.
        """
        ...

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """The mean over the samples, []; `answers` are the network's."""
        ...

    def measure(self, answers: Tensor, targets: Tensor) -> Tensor:
        """The numbers of each sample, float32 [m, len(measures)]: their means are metrics."""
        ...

    def picture(self, asked: Asked, answers: Tensor) -> list[Tensor]:
        """Rows of images to look at, each [m, C, H, W] in [-1, 1]; none for labels."""
        ...
