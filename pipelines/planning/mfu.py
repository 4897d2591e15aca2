"""MFU: the share of a GPU's peak that training reaches (arXiv:2204.02311, appendix B).

It grows with the model, and with `place.compile`. It was measured on one H200, in bfloat16 at ZeRO
level 1 (docs/gpu.md). H100 has the same peak and is taken to be alike. All else is a guess; the
plan says which it is. `python -m benchmarks.gpu mfu` measures it on a GPU of your own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import log

from cluster.settings import Place
from pipelines.planning.hardware import HOPPER_TFLOPS, NodeKind
from pipelines.recipes.stage import Stage
from vit import ViTConfig
from vit.trained import ALL, HEAD


@dataclass(frozen=True, kw_only=True)
class Mfu:
    """Share of the peak, and how it is known."""

    share: float
    source: str
    """`measured with ...`, `assumed: ...` or the option that gave it."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """What a model of this size reaches on an H100 or H200."""

    model: str
    parameters: float
    eager: float
    compiled: float
    measured: bool = True


# Those measured: docs/gpu.md, "ours, engine level 1", H200, 26 November 2026; a test compares them.
_ROWS = (
    _Row(model="S/16", parameters=22e6, eager=0.20, compiled=0.24, measured=False),
    _Row(model="B/16", parameters=86e6, eager=0.321, compiled=0.389),
    _Row(model="L/16", parameters=304e6, eager=0.378, compiled=0.433),
    _Row(model="H/14", parameters=632e6, eager=0.380, compiled=0.408),
)
_ELSEWHERE = 0.4
"""Guess for other cards, other precisions, and CPUs."""
_CONVOLUTIONS = 0.2
"""Guess for BiT's ResNets on H100 and H200: they move more bytes per FLOP than a Transformer."""
_ASSUMED = "assumed: --cluster.mfu"
_RECOMPUTING = 3 / 4
"""A forward pass more, which is a third of a step's work and not counted as progress."""


def mfu_of(stage: Stage, place: Place, kind: NodeKind, parameters: int) -> Mfu:
    """Return what `--cluster.mfu` says, else what was measured with the model next in size.

    Sizes are compared by their ratio: 150 million parameters are nearer to B (86) than to L (304).
    Where activations are recomputed, it is a quarter less.
    """
    if kind.mfu is not None:
        return Mfu(share=kind.mfu, source="--cluster.mfu")
    found = _known(stage, place, kind, parameters)
    if not (place.recompute_activations and stage.steps) or stage.train == HEAD:
        return found
    source = f"{found.source}; a quarter less: place.recompute-activations"
    return Mfu(share=found.share * _RECOMPUTING, source=source)


def _known(stage: Stage, place: Place, kind: NodeKind, parameters: int) -> Mfu:
    if kind.bfloat16_tflops != HOPPER_TFLOPS or stage.precision != "bfloat16":
        return Mfu(share=_ELSEWHERE, source=_ASSUMED)
    if not isinstance(stage.model, ViTConfig):
        return Mfu(share=_CONVOLUTIONS, source=_ASSUMED)
    row = min(_ROWS, key=lambda row: abs(log(parameters / row.parameters)))
    measured = f"measured with {row.model} on one H200, level 1: docs/gpu.md"
    so = row.measured and _as_measured(stage, place)
    share = row.compiled if place.compile else row.eager
    return Mfu(share=share, source=measured if so else _ASSUMED)


def _as_measured(stage: Stage, place: Place) -> bool:
    """Whether a stage does what was measured: all weights of a classifier, on the card alone."""
    on_card = place.zero.level < 3 and not place.zero.offload_optimizer
    return on_card and stage.objective == "classify" and stage.train == ALL


def in_words(found: Iterable[Mfu]) -> str:
    """Return each share once, with its source: `32% of the peak (measured with ...)`."""
    shares = (f"{mfu.share:.0%} of the peak ({mfu.source})" for mfu in found)
    return ", ".join(dict.fromkeys(shares))
