"""What a stage is: one frozen value that says everything a result depends on.

Two runs that differ in a field here are different experiments; what may differ without changing the
loss curve (workers, ZeRO level, places) is in `ray_config.yaml`.
"""

from dataclasses import dataclass, field
from typing import Literal

from pipelines.recipes.data import Data
from pipelines.recipes.errors import Mistake
from storage.augment import AugmentConfig
from vit import Config, OptimConfig, ViTConfig, lr_at
from vit.objectives import Kind, Masked, check_objective
from vit.trained import check_train

Metric = Literal["val/accuracy", "val/loss", "val_ema/accuracy", "val_ema/loss"]
"""A metric that can choose the weights of a stage, as MLflow and manifest.json name it."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training stage: a model, data, an objective, a schedule."""

    name: str
    """Name of the stage within its recipe."""
    parent: str | None = None
    """Stage whose weights this one starts from; None starts from scratch or from `init`."""
    init: str | None = None
    """Checkpoint (path or URI) to start from instead of a parent. The stage is named by what it
    holds, wherever it lies."""
    init_image_size: int | None = None
    """Resolution of the checkpoint in `init`, where it differs from the model's and its files do
    not say (npz and bare weights)."""
    init_mean: tuple[float, float, float] | None = None
    """Mean of the pixels, in [0, 1], that the checkpoint in `init` was trained on, where nothing
    beside it says. ImageNet's is 0.485 0.456 0.406."""
    init_std: tuple[float, float, float] | None = None
    """Standard deviation of those pixels. ImageNet's is 0.229 0.224 0.225."""
    reset_head: bool = False
    """Start with a new head even if the parent's has as many classes: another task. Heads of other
    class counts are always reset."""
    model: Config = field(default_factory=ViTConfig)
    """The network. Weights of another resolution or class count are adapted to it."""
    train: str = "all"
    """Part of the network that is trained: `all`; `head`; `bias`, every bias and the head;
    `blocks N..`, the blocks from N (counted from 0) to the last, and the norm and head after them;
    or `lora RANK`, low-rank adapters of qkv in every block, and the head. `lora 8 qkv,proj,fc1,fc2`
    adapts all matrices. The rest stays as it is given, and layer-wise decay counts its layers too.
    Adapters are added to the weights when the stage is committed."""
    data: Data = field(default_factory=Data)
    """The images."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation after the crop."""
    objective: Kind = "classify"
    """What is learned: the label; the mean colour of hidden patches (`masked-patch`, appendix B.1.2
    of arXiv:2010.11929); or their pixels (`mae`, arXiv:2111.06377). The latter two use no labels
    and hand on a model without a head."""
    masked: Masked = field(default_factory=Masked)
    """What is hidden, for `masked-patch` and `mae`."""
    loss: Literal["softmax", "sigmoid", "bce"] = "softmax"
    """Softmax cross-entropy; sigmoid cross-entropy summed over classes (21k, JFT); or its mean over
    classes with each class of a mixed image as present (`bce`, DeiT-III)."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and learning-rate schedule."""
    global_batch: int = 64
    """Images in one optimizer step, over all workers."""
    steps: int = 100
    """Optimizer steps; 0 only adapts the parent's weights and evaluates them."""
    eval_every_steps: int = 0
    """Steps between evaluations; 0 evaluates only at the end."""
    keep: Literal["last", "best"] = "last"
    """Weights to commit: those of the last step, or those of the evaluation with the best `metric`,
    the first of equals."""
    metric: Metric = "val/accuracy"
    """Metric of `keep` and `patience`: the highest accuracy or the lowest loss is the best.
    `val_ema/...` are those of the Polyak average."""
    patience: int = 0
    """Evaluations in a row without a better `metric` that end the stage early; 0 trains all
    steps."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Arithmetic of the forward and backward pass; weights and optimizer states are float32. `tf32`
    is float32 whose products a GPU may round to 10 bits of mantissa; a CPU does not."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """A micro-batch whose loss is no number: stop the stage, naming its samples, or train on
    without it (ten such steps in a row stop too; asking costs a wait for the device)."""
    seed: int = 0
    """Seed of everything random: fresh weights, order, crops, augmentation, dropout."""

    def __post_init__(self) -> None:
        for name, least in (
            ("global_batch", 1),
            ("steps", 0),
            ("eval_every_steps", 0),
            ("patience", 0),
        ):
            if getattr(self, name) < least:
                raise Mistake(f"{name}: wanted at least {least}, found {getattr(self, name)}")
        if self.parent and self.init:
            raise Mistake(
                f"stage {self.name}: parent {self.parent!r} and init {self.init!r} both give"
                " weights - set one of them to None"
            )
        if not isinstance(self.model.image_size, int):
            raise Mistake(
                f"model.image_size {self.model.image_size}: the stream cuts square images - give"
                " one number"
            )
        check_train(self.train, self.model)
        check_objective(self.objective, self.model, self.masked)
        if self.objective != "classify":
            self._check_without_labels()
        if not 0 <= self.label_smoothing < 1:
            raise Mistake(f"label_smoothing: wanted within [0, 1), found {self.label_smoothing}")
        if self.metric.startswith("val_ema/") and self.optim.ema_decay is None:
            raise Mistake(
                f"metric {self.metric}: the stage keeps no average - set optim.ema_decay, or metric"
                " to val/accuracy or val/loss"
            )
        if self.steps:
            lr_at(0, self.steps, self.optim)  # raises where warm-up and cool-down do not fit
        self.data.train_crop(self.image_size)
        self.data.val_crop(self.image_size)

    def _check_without_labels(self) -> None:
        for name, found, wanted in (
            ("train", self.train, "all"),
            ("augment.mixup", self.augment.mixup, 0),
            ("augment.cutmix", self.augment.cutmix, 0),
            ("label_smoothing", self.label_smoothing, 0),
            ("loss", self.loss, "softmax"),
        ):
            if found != wanted:
                raise Mistake(
                    f"stage {self.name}: objective {self.objective} learns without labels, so"
                    f" {name} {found} means nothing - set it to {wanted}"
                )
        if self.chooses and self.metric.endswith("accuracy"):
            raise Mistake(
                f"metric {self.metric}: objective {self.objective} learns no classes - set metric"
                f" to {self.metric.replace('accuracy', 'loss')}"
            )

    @property
    def chooses(self) -> bool:
        """Whether evaluations decide which weights are committed, or when the stage ends."""
        return self.keep == "best" or self.patience > 0

    @property
    def image_size(self) -> int:
        """Side of the model's square input, in pixels."""
        assert isinstance(self.model.image_size, int)
        return self.model.image_size


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named sequence of stages, each starting from an earlier one's weights or from scratch."""

    name: str
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        earlier: set[str | None] = {None}
        for stage in self.stages:
            assert stage.parent in earlier, f"{self.name}: {stage.name} has no earlier parent"
            earlier.add(stage.name)

    def stage(self, name: str) -> Stage:
        """The stage of that name.

        Raises:
            Mistake: the recipe has none.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        known = ", ".join(stage.name for stage in self.stages)
        raise Mistake(f"recipe {self.name!r} has no stage {name!r}, only {known}")
