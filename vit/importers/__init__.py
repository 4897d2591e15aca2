"""Read public checkpoints: Google's npz, timm, Hugging Face, open_clip, torchvision, mmpretrain.

files pickled damage   read tensors from disk without unpickling; explain a broken file
wrappings              take the state dict out of what training scripts wrap around it
settings timm_names    read config.json, and what the model names in it stand for
config_values          single values of these files
crops class_names      what these files say of how an image is cut, and of the classes
rules                  translate names and shapes
flax bit timm_layout hugging_face towers open_clip mmpretrain torchvision    names of each layout
layouts                the table by which a layout is recognised
fixes                  rewrite exactly what a model has no place for, and other pixels
shapes positions pooling    infer the model from its tensors
source                 all of the above: a checkpoint and what is known of its model
misfit                 explain why tensors do not fit
checkpoint             `import_checkpoint`: weights for a given config
content                `checkpoint_digest`: its name, wherever it lies
infer                  `infer_config`: the checkpoint's own config
"""

from vit.importers.checkpoint import import_checkpoint
from vit.importers.class_names import checkpoint_class_names
from vit.importers.content import checkpoint_digest, tensor_digest
from vit.importers.errors import BadCheckpoint
from vit.importers.infer import InferredConfig, infer_config

__all__ = [
    "BadCheckpoint",
    "InferredConfig",
    "checkpoint_class_names",
    "checkpoint_digest",
    "import_checkpoint",
    "infer_config",
    "tensor_digest",
]
