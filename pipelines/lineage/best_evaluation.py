"""The evaluation that chose the weights of a stage. Alone, so that a message can hold one without
importing torch."""

from dataclasses import dataclass

from pydantic import ConfigDict


class Value:
    """A value of manifest.json, to which later versions may add fields."""

    __pydantic_config__ = ConfigDict(extra="ignore")


@dataclass(frozen=True, kw_only=True)
class BestEvaluation(Value):
    """The evaluation that chose the weights of a stage: the one after the manifest's `step`."""

    metric: str
    value: float
    evaluations: int
    """Evaluations among which it was the best."""
    trained_steps: int
    """Steps that were trained in all; those after the best are not in the weights."""
