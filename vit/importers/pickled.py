"""Read files of `torch.save` without running any code that they may contain.

Tensors and plain containers are read. The only other allowed class is `argparse.Namespace`, in
which training scripts (timm, MAE, DeiT) keep their options; it only holds values.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import torch

from vit.importers.damage import explain_damage
from vit.importers.errors import BadCheckpoint


def read_pickled(path: Path) -> Any:
    """Load the content of a .pt, .pth, .bin or .ckpt file onto the CPU.

    Raises BadCheckpoint for a damaged file, and for objects that would have to be unpickled.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch raises many types for damaged files
        text = str(error)
        if "TorchScript" in text:
            raise BadCheckpoint(
                f"{path} is a TorchScript program, not weights - save its model's state dict"
            ) from None
        found = re.search(r"GLOBAL (\S+)", text) or re.search(r"of type ([\w.]+)", text)
        if "Weights only" in text and found:
            raise BadCheckpoint(
                f"{path} holds a pickled {found[1]}, and unpickling runs code - where it was made,"
                " save only the weights: torch.save(model.state_dict(), 'weights.pth')"
            ) from None
        raise BadCheckpoint(explain_damage(path, error)) from None
