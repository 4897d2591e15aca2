"""Objectives by name, and which models can learn by them."""

from vit.config import Config, ViTConfig
from vit.errors import BadModel
from vit.losses import Loss
from vit.objectives.classify import Classify
from vit.objectives.mae import Mae
from vit.objectives.masked import Masked, hidden_patches
from vit.objectives.masked_patch import MaskedPatch
from vit.objectives.objective import Kind, Objective


def objective_of(
    kind: Kind,
    config: Config,
    masked: Masked,
    *,
    loss: Loss = "softmax",
    label_smoothing: float = 0.0,
    mixes: bool = False,
) -> Objective:
    """Make an objective for a model that `check_objective` accepts.

    Args:
        kind: its name.
        config: the model.
        masked: what is hidden, for the objectives that hide something.
        loss: of the labels.
        label_smoothing: of the labels.
        mixes: whether training mixes images.
    """
    if kind == "classify":
        return Classify(config=config, form=loss, label_smoothing=label_smoothing, mixes=mixes)
    assert isinstance(config, ViTConfig)
    return {"mae": Mae, "masked-patch": MaskedPatch}[kind](config=config, masked=masked)


def check_objective(kind: Kind, config: Config, masked: Masked) -> None:
    """Check that a model can learn by an objective.

    Raises:
        BadModel: it cannot; the message names the field of the config to change.
    """
    if kind == "classify":
        if masked != Masked():
            raise BadModel(f"{masked}: objective classify hides nothing - leave masked.* out")
        return
    if not isinstance(config, ViTConfig) or config.stem_blocks:
        raise BadModel(f"objective {kind} hides patches of pixels: it needs a plain ViT")
    wanted = {"num_classes": 0, "pool": ("token", "gap"), "head": "linear", "distilled": False,
              "fc_norm": False}  # fmt: skip
    if kind == "mae":  # its encoder sees some of the patches
        wanted |= {"rotary": "none", "pos_embed": ("none", "learned-1d", "learned-2d", "sincos-2d")}
    for name, value in wanted.items():
        found, allowed = getattr(config, name), value if isinstance(value, tuple) else (value,)
        if found not in allowed:
            asked = " or ".join(str(each) for each in allowed)
            why = " (it has no classifier)" if name == "num_classes" else ""
            raise BadModel(f"objective {kind}{why}: wanted model.{name} {asked}, found {found}")
    hidden_patches(kind, config, masked)
