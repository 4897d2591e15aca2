"""Short names of the options that most runs set, and what they stand for."""

from dataclasses import dataclass, replace
from typing import Any

from pipelines.recipes.errors import Mistake
from pipelines.recipes.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Short:
    """Short options of a script that trains one stage; its long options win over them."""

    init: str | None = None
    """Checkpoint to start from: a file, a folder, s3://..., hf://ORG/NAME[@REVISION] or
    timm://NAME. Used in place of the weights of the stage before, and of --stage.init."""
    data: str | None = None
    """Packed dataset: the name of a folder under --place.data-root, as photos for data/photos. The
    number of classes follows from it. Same as --stage.data.dataset."""
    epochs: float | None = None
    """Length in epochs of that dataset, instead of --stage.steps. Recipes finetune, augreg-finetune
    and probe: 20 unless given."""
    batch: int | None = None
    """Images in one optimizer step, over all workers. Same as --stage.global-batch."""
    lr: float | None = None
    """Learning rate after warm-up. Same as --stage.optim.peak-lr."""
    image_size: int | None = None
    """Side of the images in pixels. Same as --stage.model.image-size."""

    def __post_init__(self) -> None:
        if self.epochs is not None and not self.epochs > 0:
            raise Mistake(f"--epochs {self.epochs:g}: wanted more than 0")

    @property
    def name_of_data(self) -> str:
        """Last part of `data`, which is a run's name where none is given."""
        return (self.data or "").rstrip("/").rpartition("/")[2]

    def of(self, stage: Stage) -> Stage:
        """Return the stage with what needs no look at the data or the checkpoint."""
        changes: dict[str, Any] = {}
        if self.init is not None:
            changes |= {"init": self.init, "parent": None}
        if self.data is not None:
            changes["data"] = replace(stage.data, dataset=self.data.rstrip("/") or self.data)
        if self.batch is not None:
            changes["global_batch"] = self.batch
        if self.lr is not None:
            changes["optim"] = replace(stage.optim, peak_lr=self.lr)
        if self.image_size is not None:
            changes["model"] = replace(stage.model, image_size=self.image_size)
        return replace(stage, **changes)
