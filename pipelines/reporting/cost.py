"""What a stage took, from its config, its curves and `vit.cost`."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.reporting.content import Curve, StageContent
from vit import build_model
from vit.objectives import Masked
from vit.objectives.cost import objective_flops
from vit.trained import ALL


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What a stage took; None for unknown values."""

    seconds: float | None
    """From the first start to the end, restarts and waiting included."""
    images: int | None
    """Images trained on, repeats included."""
    images_per_second: float | None
    """Mean over the steps while training."""
    training_flops: float | None
    """FLOP of the optimizer steps, as `vit.trained` counts them."""
    evaluation_flops: float | None
    read_bytes: float | None
    """Bytes read, as far as logged."""
    read_requests: float | None
    parameters: int | None

    @property
    def flops_per_second(self) -> float | None:
        """FLOP/s of all workers while training."""
        if not self.training_flops or not self.images or not self.images_per_second:
            return None
        return self.training_flops / self.images * self.images_per_second


def cost_of(stage: StageContent) -> StageCost:
    """The cost of one attempt."""
    manifest = stage.manifest
    steps = manifest.trained_steps if manifest else _last_step(stage.curves.get("train/loss", []))
    steps = steps if stage.trains else None
    batch = stage.config.get("global_batch", "")
    images = int(batch) * int(steps) if batch.isdigit() and steps is not None else None
    training = evaluation = None
    parameters = None
    if manifest and (manifest.model or "model" in manifest.stage):
        cost = build_model(manifest.config(), device="meta").cost()
        parameters = cost.parameters
        said = manifest.stage
        each = objective_flops(
            said.get("objective", "classify"),
            manifest.config(),
            Masked(**said.get("masked", {})),
            str(said.get("train", ALL)),
        )
        training = each * images if images is not None else None
        counts = (stage.curves.get(f"{name}/samples", []) for name in ("val", "val_ema"))
        seen = sum(value for curve in counts for _, value in curve)
        evaluation = cost.forward_flops * seen if seen else None
    ended = stage.ended_ms
    mebibytes = _total(stage.curves, "train/read_mebibytes")
    return StageCost(
        seconds=(ended - stage.began_ms) / 1000 if ended else None,
        images=images,
        images_per_second=_mean_rate(stage.curves),
        training_flops=training,
        evaluation_flops=evaluation,
        read_bytes=None if mebibytes is None else mebibytes * 2**20,
        read_requests=_total(stage.curves, "train/read_requests"),
        parameters=parameters,
    )


def _mean_rate(curves: Mapping[str, Curve]) -> float | None:
    """Images a second over the whole stage: logged rates, weighted by the time they stand for."""
    rates = curves.get("train/images_per_second", [])
    before, images, seconds = 0, 0.0, 0.0
    for step, rate in rates:
        if rate > 0:
            images += step - before
            seconds += (step - before) / rate
        before = step
    return images / seconds if seconds else None


def _total(curves: Mapping[str, Curve], name: str) -> float | None:
    curve = curves.get(name)
    return sum(value for _, value in curve) if curve else None


def _last_step(curve: Curve) -> int | None:
    return curve[-1][0] if curve else None
