"""Operators that a piece of code calls: what a GPU's host would wait for shows on a CPU too."""

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

WAITED_FOR = ("aten::_local_scalar_dense", "aten::lift_fresh", "aten::nonzero")
"""What a GPU's host waits for: numbers that it reads, and constants that it sends."""


class Calls(TorchDispatchMode):
    """Counts the calls of each operator."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counted[func.name()] += 1
        return func(*args, **(kwargs or {}))
