"""Read public checkpoints: Google's npz, timm, Hugging Face, torchvision, mmpretrain.

files pickled damage   read tensors from disk, nothing unpickled; say what a broken file is
wrappings              take the state dict out of what training scripts wrap around it
settings timm_names    what config.json and the names in it say
rules                  translate names and shapes
flax bit hugging_face mmpretrain torchvision    the names of each layout
layouts                the table by which a layout is recognised
fixes                  LayerScale, missing biases, other pixels: rewritten exactly
shapes positions pooling    what the tensors show of their model
source                 all of the above: a checkpoint and what is known of it
misfit                 why tensors do not fit
checkpoint             `import_checkpoint`: weights for a given config
content                `checkpoint_digest`: its name, wherever it lies
infer                  `infer_config`: the checkpoint's own config
"""

from vit.importers.checkpoint import import_checkpoint
from vit.importers.content import checkpoint_digest, tensor_digest
from vit.importers.errors import BadCheckpoint
from vit.importers.infer import InferredConfig, infer_config

__all__ = [
    "BadCheckpoint",
    "InferredConfig",
    "checkpoint_digest",
    "import_checkpoint",
    "infer_config",
    "tensor_digest",
]
