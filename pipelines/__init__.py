"""The stages: recipes, the training loop, tracking, and the scripts that a user runs.

The only package that knows `vit`, `storage` and `cluster`. A room imports only what lies below it
(held by import-linter); a script imports its room's command and nothing else.

    campaigns/   many stages of one recipe      study.py  suite.py
    checks/      does this deployment work?     doctor.py  verify_order.py
    ------------------------------------------------------------------------------------
    training/    one stage, in your process     pretrain.py  upscale.py  finetune.py  pipeline.py
    evaluation/  what weights are worth         evaluate.py
    exporting/   weights for other libraries    export.py
    prediction/  classes of a user's images     predict.py
    ------------------------------------------------------------------------------------
    worker/      one stage, on every rank       loop.py is the whole training loop
    ------------------------------------------------------------------------------------
    inspection/  pictures of weights            inspect_weights.py
    reporting/   the HTML page of a run         report.py
    ------------------------------------------------------------------------------------
    planning/    what a recipe takes            plan.py
    packing/     images into shards             pack.py
    tracking/    MLflow
    inference/   a network over many images
    lineage/     what lies in a storage root    status.py
    ------------------------------------------------------------------------------------
    cli/         options, place, exit codes, terminal
    recipes/     what is trained

From Python: `from pipelines import run, evaluate, predict` (docs/from-python.md).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pipelines.cli.loopback
import pipelines.cli.ray_environment  # noqa: F401  # before any module here imports Ray

if TYPE_CHECKING:
    from pipelines.evaluation.call import evaluate
    from pipelines.prediction.call import predict
    from pipelines.training.call import run

__all__ = ["evaluate", "predict", "run"]
_ROOMS = {"evaluate": "evaluation", "predict": "prediction", "run": "training"}


def __getattr__(name: str) -> Any:
    """Import a function when it is asked for: it brings torch and Ray, which take seconds."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}.call"), name)
