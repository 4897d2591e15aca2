"""The arithmetic of a worker: its precision, and whether results are the same bits every time.

`float32` means float32 everywhere: by default torch lets cuDNN round the factors of convolutions to
TF32 (10 bits of mantissa), and the patch embedding is a convolution. `tf32` is a separate
precision.
"""

import os
from typing import Any, Literal, get_args

import torch

Precision = Literal["float32", "tf32", "bfloat16"]


def element_type(precision: Precision) -> torch.dtype:
    """Type of weights and activations in the forward pass."""
    assert precision in get_args(Precision), precision
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def set_arithmetic(precision: Precision, *, deterministic: bool = False) -> None:
    """Set torch's switches for this process, before its first product.

    Args:
        precision: only `tf32` lets a GPU round the factors of float32 products.
        deterministic: use kernels that give the same bits each time. Otherwise attention's backward
            pass and cuDNN's weight gradients add in the order in which their blocks finish.
    """
    tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS reads it at its first product
        torch.use_deterministic_algorithms(True)
        switches: Any = torch.utils.deterministic  # the switch is missing in its types
        switches.fill_uninitialized_memory = False  # it is for finding bugs, and slow
        torch.backends.cudnn.benchmark = False
