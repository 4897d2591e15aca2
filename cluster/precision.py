"""The arithmetic of a worker: what numbers it multiplies, and whether twice gives the same bits.

`float32` is float32 everywhere: torch lets cuDNN round the factors of convolutions to TF32 (10 bits
of mantissa) by default, and the patch embedding is a convolution. `tf32` is a precision of its own.
"""

import os
from typing import Any, Literal, get_args

import torch

Precision = Literal["float32", "tf32", "bfloat16"]


def element_type(precision: Precision) -> torch.dtype:
    """What weights and activations are in the forward pass."""
    assert precision in get_args(Precision), precision
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def set_arithmetic(precision: Precision, *, deterministic: bool = False) -> None:
    """Set torch's switches for this process, before its first product.

    Args:
        precision: only `tf32` lets a GPU round the factors of float32 products.
        deterministic: take kernels that give the same bits each time. Attention's backward pass and
            cuDNN's gradients of weights otherwise add in the order in which their blocks end.
    """
    tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS reads it with its first product
        torch.use_deterministic_algorithms(True)
        switches: Any = torch.utils.deterministic  # its type leaves the switch out
        switches.fill_uninitialized_memory = False  # it is for finding bugs, and slow
        torch.backends.cudnn.benchmark = False
