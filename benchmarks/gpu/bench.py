"""What the parts share: the device, models and engines as a stage builds them, and a clock."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import vit
from benchmarks.gpu.report import Report
from benchmarks.model import config_of
from cluster.batching import BatchPlan
from cluster.engine import build_engine
from cluster.precision import Precision, element_type
from cluster.settings import Zero, ZeroLevel
from cluster.zero import zero_config
from pipelines.worker.start import LEAF_CLASSES

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine

GIB = 2**30
BATCHES = {"ti": 256, "s": 256, "b": 256, "l": 128, "h": 64}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The device to measure, and how much of it."""

    report: Report
    device: torch.device
    tiny: bool
    sizes: tuple[str, ...]
    steps: int
    folder: Path
    """For what the parts write."""
    photographs: Path | None
    """An indexed dataset for part `fed`; without it photographs are made."""

    @property
    def gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def config(self, size: str) -> vit.ViTConfig:
        """Return the named ViT, or with `--tiny` one that a CPU trains in milliseconds."""
        config = config_of(size)
        if not self.tiny:
            return config
        small = {"depth": 2, "width": 64, "heads": 2, "mlp_dim": 128}
        return replace(config, **small, image_size=64, patch_size=16, num_classes=100)

    def images(self, config: vit.ViTConfig, batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return random uint8 images [batch, H, W, 3] and labels [batch], on the CPU."""
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, *config.image_hw, 3)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return pixels, torch.randint(0, config.num_classes, (batch,), generator=generator)

    def engine(
        self,
        model: vit.ViT,
        level: ZeroLevel,
        precision: Precision,
        *,
        micro: int,
        accumulation: int = 1,
        optim: vit.OptimConfig | None = None,
        average: bool = False,
        fused: bool = False,
        changes: Mapping[str, Any] | None = None,
    ) -> "DeepSpeedEngine":
        """Build DeepSpeed's engine as a stage does; `changes` replace keys of its settings.

        With `fused` the optimizer is that of a GPU, on a CPU too.
        """
        optim = optim or vit.OptimConfig(weight_decay=0.1)
        groups = vit.param_groups(model, optim)
        settings = zero_config(
            Zero(level=level),
            BatchPlan(micro=micro, workers=1, accumulation=accumulation),
            precision=precision,
            clip_norm=1.0,
            gpu=self.gpu,
            leaf_classes=LEAF_CLASSES,
        )
        settings |= changes or {}
        optimizer = vit.build_optimizer(groups, optim, fused=fused or self.gpu)
        return build_engine(model.to(self.device), optimizer, settings, average=average)

    def train(
        self, engine: "DeepSpeedEngine", pixels: Tensor, labels: Tensor, precision: Precision
    ) -> Tensor:
        """One micro-batch through the engine, its step included; return the loss []."""
        images = vit.normalize(pixels.to(self.device)).to(element_type(precision))
        logits = engine(images).float()
        loss = vit.loss_fn("softmax", logits, labels.to(self.device))
        engine.backward(loss)
        engine.step()
        return loss.detach()

    def seconds(self, work: Callable[[], object], *, steps: int, warm: int = 4) -> float:
        """Return the median seconds of a call, of many between two synchronisations.

        So the time in which the host runs ahead of the GPU counts as it does in training.
        """
        for _ in range(1 if self.tiny else warm):
            work()
        rounds = []
        for _ in range(3):
            self.wait()
            began = time.perf_counter()
            for _ in range(steps):
                work()
            self.wait()
            rounds.append((time.perf_counter() - began) / steps)
        return statistics.median(rounds)

    def wait(self) -> None:
        """Wait until the GPU has done all that it was given."""
        if self.gpu:
            torch.cuda.synchronize()

    def clear(self) -> None:
        """Free what the part before left, and start the memory's high-water mark anew."""
        gc.collect()
        if self.gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def relative(found: Tensor, wanted: Tensor) -> float:
    """Return the norm of the difference over the norm of what was wanted."""
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    return float((found - wanted).norm() / wanted.norm())
