"""What a stage is: one frozen value that says everything a result depends on.

Two runs that differ in a field here are different experiments; what may differ without changing the
loss curve (workers, ZeRO level, places) is in `ray_config.yaml`. The fingerprint of a stage names
its content: config, dataset, parent.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pipelines.recipes.errors import Mistake
from storage.augment import AugmentConfig
from storage.balance import Balance
from storage.decode import Crop
from storage.order import Tail
from storage.selection import Selection
from vit import Config, OptimConfig, ViTConfig, lr_at
from vit.trained import check_train

FORMAT_VERSION = 1
Metric = Literal["val/accuracy", "val/loss", "val_ema/accuracy", "val_ema/loss"]
"""A metric that can choose the weights of a stage, as MLflow and manifest.json name it."""
# Added since: no part of a fingerprint where they say nothing, so that what was committed before
# keeps its name. The values are those that say nothing, and stay even if a default changes.
_ADDED: dict[str, dict[str, Any]] = {
    "model": {
        "drop_rest": False,
        "patch_bias": True,
        "rotary": "none",
        "rotary_temperature": 10_000.0,
        "rotary_reference": 0,
        "mlp": "gelu",
        "norm": "layer",
        "pre_norm": False,
        "qk_norm": False,
        "attn_norm": False,
        "mlp_norm": False,
        "qkv_bias": "all",
        "proj_bias": True,
        "layer_scale": False,
        "layer_scale_init": 1e-5,
        "distilled": False,
    },
    "stage": {
        "nonfinite": "stop",
        "init_mean": None,
        "init_std": None,
        "reset_head": False,
        "keep": "last",
        "metric": "val/accuracy",
        "patience": 0,
        "train": "all",
    },
    "data": {"val_selection": asdict(Selection()), "balance": "none"},
    "selection": {"labels": None, "samples": None, "skip": 0},
}


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
    crop: Literal["random", "center", "resize"] = "random"
    """Training: a random area and aspect (Inception crop), the centre, or the whole image."""
    area: tuple[float, float] = (0.05, 1.0)
    """Random crop: bounds of its share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Random crop: bounds of its width over height."""
    flip: bool = True
    """Random crop: mirror half of the images. Not for digits or text."""
    eval_crop: Literal["center", "resize"] = "center"
    """Evaluation: the centre, or the whole image."""
    eval_fraction: float = 224 / 256
    """Evaluation by centre: the crop's side over the shorter side of the resized image."""
    tail: Tail = "drop"
    """Samples of an epoch that fill no global batch: `drop` them, or `carry` them over into a batch
    with the next epoch's first."""
    balance: Balance = "none"
    """Share of each class in an epoch of training: its own (`none`, every sample once), by the root
    of its size (`sqrt`), or the same for all (`uniform`). Balanced, small classes repeat within an
    epoch, and large ones are seen whole over several."""

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
        return Crop(image_size=image_size, kind=self.eval_crop, resize_fraction=self.eval_fraction)


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
    """Part of the network that is trained: `all`; `head`; `bias`, every bias and the head; or
    `blocks N..`, the blocks from N (counted from 0) to the last, and the norm and head after them.
    The rest stays as it is given, and layer-wise decay counts its layers too."""
    data: Data = field(default_factory=Data)
    """The images."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation after the crop."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Softmax cross-entropy, or sigmoid cross-entropy summed over classes (21k, JFT)."""
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


def fingerprint(
    stage: Stage, *, dataset_digest: str, parent: str | None, init: str | None = None
) -> str:
    """Name of a stage's content: the same 16 hex digits for the same experiment, anywhere.

    Args:
        stage: the whole stage.
        dataset_digest: of the dataset it trains on.
        parent: fingerprint of the stage it starts from.
        init: digest of the checkpoint that `stage.init` names, which takes the place of its path.
    """
    assert (init is None) == (stage.init is None), f"init {stage.init} has the digest {init}"
    content = {
        "format_version": FORMAT_VERSION,
        "stage": _as_first_written(typed_values(stage)) | {"init": init},
        "dataset": dataset_digest,
        "parent": parent,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def typed_values(value: Any, of_type: Any = None) -> Any:
    """`dataclasses.asdict` by the types of the fields: 10 in a field of floats becomes 10.0.

    The two are equal, but not as text, and a fingerprint is made of text.
    """
    if is_dataclass(value) and not isinstance(value, type):
        types = get_type_hints(type(value))
        return {f.name: typed_values(getattr(value, f.name), types[f.name]) for f in fields(value)}
    arms = get_args(of_type) if get_origin(of_type) in (Union, UnionType) else (of_type,)
    if isinstance(value, tuple | list):
        kinds = next((get_args(arm) for arm in arms if get_origin(arm) is tuple), ())
        same = len(kinds) != len(value) or Ellipsis in kinds
        each = [kinds[0] if kinds else None] * len(value) if same else kinds
        return [typed_values(item, kind) for item, kind in zip(value, each, strict=True)]
    if isinstance(value, int) and not isinstance(value, bool) and float in arms and int not in arms:
        return float(value)
    if isinstance(value, float) and value.is_integer() and int in arms and float not in arms:
        return int(value)
    return value


def _as_first_written(stage: dict[str, Any]) -> dict[str, Any]:
    """The stage without the fields in `_ADDED` that have their default."""
    data = dict(stage["data"])
    data["selection"] = _without_defaults(data["selection"], _ADDED["selection"])
    model = _without_defaults(stage["model"], _ADDED["model"])
    whole = stage | {"data": _without_defaults(data, _ADDED["data"]), "model": model}
    return _without_defaults(whole, _ADDED["stage"])


def _without_defaults(values: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k not in added or v != added[k]}


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dataclass values as dotted names: `{"optim.peak_lr": 0.001, ...}`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found.update(flatten(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def plain(value: Any) -> Any:
    """Tuples as lists, so that YAML and JSON say the same."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value
