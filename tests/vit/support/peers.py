"""What the comparisons with other libraries share; timm, where torchvision cannot be had.

timm names torchvision when it is imported, for transforms, data sets and a frozen batch norm that
no ViT uses. A stand-in answers those imports and is gone again before anybody else looks.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn

import vit


class _AnyAttribute(type):
    """A class that has whatever class attribute is asked for."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _StandIn(ModuleType):
    """A module that has whatever class is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnyAttribute(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        return None


def import_timm() -> ModuleType:
    """The timm package; raises ImportError if it is not installed."""
    if "timm" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        import timm

        return timm
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        import timm
        import timm.layers
        import timm.models
    finally:
        sys.meta_path.remove(finder)
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    return timm


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Every parameter random, so that a swapped or forgotten one shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.02, generator=generator)
        if "gamma" in name or ("norm" in name and name.endswith("weight")):
            parameter.data += 1


def random_model(config: vit.Config, seed: int = 0) -> vit.ViT | vit.BiT:
    """`config`'s model with every parameter random."""
    model = vit.build_model(config)
    randomize(model, seed)
    return model


def images_for(config: vit.Config, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, 3, *config.image_hw, generator=generator) * 2 - 1
