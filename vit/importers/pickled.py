"""Read what `torch.save` wrote, without running any code that the file may hold.

Tensors and plain containers are read. The one class that is allowed besides is
`argparse.Namespace`, in which training scripts (timm, MAE, DeiT) keep their options: it can hold
values and do nothing.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import torch

from vit.importers.damage import explain_damage
from vit.importers.errors import BadCheckpoint


def read_pickled(path: Path) -> Any:
    """Content of a .pt, .pth, .bin or .ckpt file on the CPU.

    Raises BadCheckpoint for a damaged file, and for objects that would have to be unpickled.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch raises whatever a damaged file leads it to
        text = str(error)
        if "TorchScript" in text:
            raise BadCheckpoint(
                f"{path} is a TorchScript archive, a program - save the state dict of its model"
            ) from None
        found = re.search(r"GLOBAL (\S+)", text) or re.search(r"of type ([\w.]+)", text)
        if "Weights only" in text and found:
            raise BadCheckpoint(
                f"{path} holds a pickled {found[1]}, and unpickling runs code - save its state"
                " dict alone where it was made: torch.save(model.state_dict(), 'weights.pth')"
            ) from None
        raise BadCheckpoint(explain_damage(path, error)) from None
