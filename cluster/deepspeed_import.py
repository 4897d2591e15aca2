"""Import DeepSpeed without what it takes along and a stage does not use.

Every start of a worker pays for it. DeepSpeed imports MLflow for its autotuner (2.9 of its 5.3 s),
and each of its engines imports its Muon optimizers, which import torch's compiler (2 s).
"""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

_MUON = "deepspeed.runtime.zero.muon"


def import_deepspeed() -> None:
    """Import DeepSpeed for the first time, with empty modules in the place of its Muon optimizers.

    A plain `import deepspeed` afterwards finds it.
    """
    with _without_mlflow():
        import_module("deepspeed")
    if f"{_MUON}.original_muon" not in sys.modules:
        _stand_in(f"{_MUON}.original_muon", muon_update=None)
        _stand_in(f"{_MUON}.muon_optimizer", MuonWithAuxAdam=_NoMuon)


class _NoMuon:
    """Stands for DeepSpeed's optimizers: it asks whether ours is one of them."""


def _stand_in(name: str, **content: Any) -> None:
    module = ModuleType(name)
    vars(module).update(content)
    sys.modules[name] = module


@contextmanager
def _without_mlflow() -> Generator[None]:
    """Make MLflow seem not installed, if it is not imported yet."""
    missing = "mlflow" not in sys.modules
    if missing:
        sys.modules["mlflow"] = None  # type: ignore[assignment]  # so an import raises ImportError
    try:
        yield
    finally:
        if missing:
            del sys.modules["mlflow"]
