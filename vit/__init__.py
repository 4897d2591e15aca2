"""Vision Transformers in plain torch, numerically those of arXiv:2010.11929.

config    what a model is; variants names them
build     `build_model`: memory, NaN, then the initial weights of init
model     the Transformer; embed, blocks, layers, rotary, relative, heads, resnet are its parts
dropout   dropout and stochastic depth by the sample, the same however a batch is cut
surgery   fit weights to another resolution or other classes; resample is its arithmetic
importers public checkpoints: Google's npz, timm, Hugging Face, torchvision
export    a timm or Hugging Face folder, ONNX, a torch.export program; preprocessing is what it says
          of the pixels, timm_model and hugging_face_model what these call the model
augment   uint8 batches to what the network sees; mixup and cutmix by draws
losses    softmax and sigmoid cross-entropy, targets
optim     parameter groups, learning-rate schedules, weight averaging
attention where a model looks: maps, mean distance, rollout
learned   what weights show: filters, similarity of positions
trained   which part of a model is trained; lora adds adapters to it
objectives what is learned of an image: its label, or what is hidden of it
"""

from vit.augment import mix_pairs, normalize
from vit.build import build_model
from vit.config import BiTConfig, Config, ViTConfig, config_from_dict
from vit.dropout import drops, sample_keys
from vit.export import export_hugging_face, export_onnx, export_program, export_timm
from vit.importers import (
    BadCheckpoint,
    InferredConfig,
    checkpoint_class_names,
    checkpoint_digest,
    import_checkpoint,
    infer_config,
    tensor_digest,
)
from vit.losses import loss_fn, one_hot
from vit.model import ViT
from vit.optim import (
    OptimConfig,
    build_optimizer,
    lr_at,
    param_groups,
    set_lr,
    update_average,
)
from vit.preprocessing import Preprocessing
from vit.resnet import BiT
from vit.surgery import adapt_state_dict
from vit.variants import VARIANTS

__all__ = [
    "VARIANTS",
    "BadCheckpoint",
    "BiT",
    "BiTConfig",
    "Config",
    "InferredConfig",
    "OptimConfig",
    "Preprocessing",
    "ViT",
    "ViTConfig",
    "adapt_state_dict",
    "build_model",
    "build_optimizer",
    "checkpoint_class_names",
    "checkpoint_digest",
    "config_from_dict",
    "drops",
    "export_hugging_face",
    "export_onnx",
    "export_program",
    "export_timm",
    "import_checkpoint",
    "infer_config",
    "loss_fn",
    "lr_at",
    "mix_pairs",
    "normalize",
    "one_hot",
    "param_groups",
    "sample_keys",
    "set_lr",
    "tensor_digest",
    "update_average",
]
