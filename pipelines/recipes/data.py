"""Which images a stage trains on and is evaluated on, and how they are cut."""

from dataclasses import dataclass, field, replace
from typing import Literal

from pipelines.recipes.errors import Mistake
from storage.balance import Balance
from storage.decode import Crop
from storage.order import Tail
from storage.pixels import Interpolation
from storage.selection import Selection
from vit import Preprocessing


def check_dataset_name(name: str) -> None:
    """Raise Mistake if a dataset is named by its whole path: a recipe means the same everywhere."""
    if not (name.startswith(("/", "~")) or "://" in name):
        return
    folder, _, last = name.rstrip("/").rpartition("/")
    raise Mistake(
        f"dataset {name}: wanted the name of a packed dataset, a folder under --place.data-root -"
        f" pack images first (pipelines/pack.py); if they are packed there, give {last}, and"
        f" --place.data-root {folder or '/'} where that is another folder than now"
    )


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images a stage sees, and how they are cut."""

    dataset: str = "digits"
    """Folder of the packed dataset under `place.data_root`."""
    train_split: str = "train"
    """Split to train on."""
    val_split: str = "val"
    """Split to evaluate on."""
    selection: Selection = field(default_factory=Selection)
    """Part of the training split: some classes, few examples. Evaluation takes the same classes,
    all examples, where `val_selection` does not say otherwise."""
    val_selection: Selection = field(default_factory=Selection)
    """Part of the validation split; where it names no classes, those of `selection`. With the
    training split as `val_split` and `skip` it holds examples out."""
    crop: Literal["random", "simple", "center", "resize"] = "random"
    """Training: a random area and aspect (Inception crop), a random square of the shorter side's
    length (the simple crop of DeiT-III), the centre, or the whole image."""
    area: tuple[float, float] = (0.05, 1.0)
    """Random crop: bounds of its share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Random crop: bounds of its width over height."""
    flip: bool = True
    """Random and simple crop: mirror half of the images. Not for digits or text."""
    eval_crop: Literal["center", "resize"] = "center"
    """Evaluation: the centre, or the whole image."""
    eval_fraction: float = 224 / 256
    """Evaluation by centre: the crop's side over the shorter side of the resized image."""
    eval_interpolation: Interpolation = "bicubic"
    """Evaluation: the filter that resizes images. Training always takes bicubic."""
    tail: Tail = "drop"
    """Samples of an epoch that fill no global batch: `drop` them, or `carry` them over into a batch
    with the next epoch's first."""
    balance: Balance = "none"
    """Share of each class in an epoch of training: its own (`none`, every sample once), by the root
    of its size (`sqrt`), or the same for all (`uniform`). Balanced, small classes repeat within an
    epoch, and large ones are seen whole over several."""
    shares: tuple[float, ...] | None = None
    """Share of each dataset of a mixture (pack.py mix) in an epoch of training, in their order: 3 1
    draws three quarters from the first. Default: as many as each has."""

    def __post_init__(self) -> None:
        check_dataset_name(self.dataset)
        if self.shares is None:
            return
        said = " ".join(f"{share:g}" for share in self.shares)
        if not all(0 <= share < float("inf") for share in self.shares) or not sum(self.shares):
            raise Mistake(f"data.shares {said}: wanted numbers of at least 0, one of them above 0")
        if self.balance != "none":
            raise Mistake(
                f"data.shares {said} and data.balance {self.balance}: give only one of the two"
            )

    def train_crop(self, image_size: int) -> Crop:
        """How a training image of this size is cut."""
        return Crop(
            image_size=image_size,
            kind=self.crop,
            area=self.area,
            ratio=self.ratio,
            flip=self.flip,
            resize_fraction=self.eval_fraction,
        )

    def val_crop(self, image_size: int) -> Crop:
        """How a validation image of this size is cut."""
        return Crop(
            image_size=image_size,
            kind=self.eval_crop,
            resize_fraction=self.eval_fraction,
            interpolation=self.eval_interpolation,
        )

    @property
    def preprocessing(self) -> Preprocessing:
        """The crop of evaluation, as other libraries are told of it."""
        return Preprocessing(
            crop=self.eval_crop,
            crop_fraction=self.eval_fraction,
            interpolation=self.eval_interpolation,
        )

    def evaluated_by(self, crop: Preprocessing | None) -> "Data":
        """The same with another crop of evaluation: a checkpoint's own, where its files say one."""
        if crop is None:
            return self
        return replace(
            self,
            eval_crop=crop.crop,
            eval_fraction=crop.crop_fraction,
            eval_interpolation=crop.interpolation,
        )
