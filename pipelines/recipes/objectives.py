"""The objective of a stage, its network, and what the network costs."""

from functools import lru_cache

from pipelines.recipes.stage import Stage
from vit import param_groups
from vit.build import Model
from vit.cost import Cost
from vit.objectives import Objective, objective_of
from vit.objectives.cost import objective_flops
from vit.trained import freeze, trained_parameters


def stage_objective(stage: Stage) -> Objective:
    """What the stage learns."""
    return objective_of(
        stage.objective,
        stage.model,
        stage.masked,
        loss=stage.loss,
        label_smoothing=stage.label_smoothing,
        mixes=stage.augment.mixes,
    )


def stage_network(stage: Stage, *, fresh: bool = True) -> Model:
    """The network of the stage: the model, what the objective and adapters add.

    Gradients are switched off where nothing is trained. Its weights are fresh, or without `fresh`
    NaN (`vit.build_model`).
    """
    network = stage_objective(stage).network(seed=stage.seed if fresh else None)
    freeze(network, stage.train, seed=stage.seed)
    return network


def stage_cost(stage: Stage) -> Cost:
    """Parameters of that network, and multiply-adds of an image."""
    return stage_objective(stage).network(device="meta").cost()


def stage_training_flops(stage: Stage) -> int:
    """FLOPs of a training step per image."""
    return objective_flops(stage.objective, stage.model, stage.masked, stage.train)


def stage_trained_parameters(stage: Stage) -> int:
    """Count the numbers in the parameters that are trained."""
    if stage.objective != "classify":
        return stage_cost(stage).parameters
    return trained_parameters(stage.model, stage.train)


@lru_cache(maxsize=32)
def stage_matrices(stage: Stage) -> tuple[int, ...]:
    """Sizes of the matrices that Muon makes orthogonal, ascending; none with other optimizers."""
    if stage.optim.name != "muon":
        return ()
    network = stage_objective(stage).network(device="meta")
    freeze(network, stage.train)
    matrices = [g for g in param_groups(network, stage.optim) if g["update"] == "orthogonal"]
    return tuple(sorted(each.numel() for group in matrices for each in group["params"]))
