"""FLOPs of training by an objective."""

from vit.config import Config
from vit.objectives.build import objective_of
from vit.objectives.masked import Masked
from vit.objectives.objective import Kind
from vit.trained import training_flops


def objective_flops(kind: Kind, config: Config, masked: Masked, train: str) -> int:
    """FLOPs of a training step per image.

    Args:
        kind: of the objective.
        config: of the model.
        masked: what is hidden.
        train: which part is trained; all of it without labels.
    """
    if kind == "classify":
        return training_flops(config, train)
    return objective_of(kind, config, masked).network(device="meta").cost().training_flops
