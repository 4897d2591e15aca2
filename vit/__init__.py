"""Vision Transformers in plain torch, numerically those of arXiv:2010.11929.

config    what a model is, and the named variants
model     the model and `build_model`; embed, blocks and heads are its parts
surgery   fit weights to another resolution or other classes; resample is its arithmetic
augment   training images from uint8 batches, the same on every worker
losses    softmax and sigmoid cross-entropy
optim     parameter groups, learning-rate schedules, weight averaging
"""

from vit.augment import AugmentConfig, augment_batch, normalize
from vit.config import VARIANTS, Config, ViTConfig, config_from_dict
from vit.losses import loss_fn
from vit.model import ViT, build_model
from vit.optim import (
    OptimConfig,
    build_optimizer,
    lr_at,
    param_groups,
    set_lr,
    update_average,
)
from vit.surgery import adapt_state_dict

__all__ = [
    "VARIANTS",
    "AugmentConfig",
    "Config",
    "OptimConfig",
    "ViT",
    "ViTConfig",
    "adapt_state_dict",
    "augment_batch",
    "build_model",
    "build_optimizer",
    "config_from_dict",
    "loss_fn",
    "lr_at",
    "normalize",
    "param_groups",
    "set_lr",
    "update_average",
]
