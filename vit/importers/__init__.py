"""Read public checkpoints: Google's npz, timm, Hugging Face, torchvision.

rules          translate names and shapes
flax bit hugging_face torchvision    the names of each layout
layouts        the table by which a layout is recognised
files          read tensors from disk, nothing unpickled
checkpoint     `import_checkpoint`: all of it, then surgery
"""

from vit.importers.checkpoint import import_checkpoint

__all__ = ["import_checkpoint"]
