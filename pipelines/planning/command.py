"""`pipelines/plan.py`: estimate what a recipe takes on a cluster, before anything is paid for.

Needs no GPU, no running Ray, no MLflow and no data. Image counts and sizes come from the dataset if
it is packed, else from `--images` and `--mean-bytes` or the dataset's published size.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from pipelines.cli.command_line import program_name, read_command
from pipelines.cli.exits import errors_as_exits
from pipelines.cli.options import Command
from pipelines.cli.parser import peek
from pipelines.cli.place import CONFIG
from pipelines.planning.advice import fitting_place
from pipelines.planning.estimate import Estimate, check_sharing, estimate
from pipelines.planning.hardware import NodeKind, default_kind, find_node_kind
from pipelines.planning.images import images_of, with_images
from pipelines.planning.tables import print_plan
from pipelines.recipes.errors import Mistake


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Options of `plan.py`."""

    TAKES_NO_FORCE: ClassVar = True
    on: str
    """Kind of node; an unknown name prints the list of known ones."""
    only: str | None = None
    """Estimate only this stage; its settings are then overridden by --stage.FIELD."""
    images: int | None = None
    """Number of training images, for a dataset that is not packed yet."""
    mean_bytes: float | None = None
    """Mean size of a stored image in bytes, for a dataset that is not packed yet."""
    json: bool = False
    """Print JSON, in bytes and seconds, instead of tables."""
    cluster: NodeKind
    """Hardware and prices of a node; the defaults are those of --on."""


def main(description: str) -> NoReturn:
    """Print the estimate; exit with a code of `pipelines.cli.exits`."""
    with errors_as_exits():
        command = read_plan(sys.argv[1:], prog=program_name(), description=description)
        estimates = plan(command)
        if command.own.json:
            print(json.dumps(as_json(estimates, command), indent=1))
        else:
            print_plan(estimates, command)
    sys.exit(0)


def read_plan(argv: list[str], *, prog: str, description: str) -> Command[PlanOptions]:
    """Parse the options of `pipeline.py`, or with `--only STAGE` those of that stage's script.

    Raises:
        Mistake: one line for whatever is wrong with them.
    """
    first = peek(argv, prog, on=None, only=None, config=CONFIG)
    on = first.on or default_kind(Path(first.config))
    own = PlanOptions(on=on, cluster=find_node_kind(on))
    command = read_command(argv, prog=prog, description=description, own=own, stage_name=first.only)
    for name in ("images", "mean_bytes"):
        value = getattr(command.own, name)
        if value is not None and not value > 0:
            raise Mistake(f"--{name.replace('_', '-')}: wanted more than 0, found {value}")
    return command


def plan(command: Command[PlanOptions]) -> list[Estimate]:
    """Estimate all stages. Raises BadPlace if the workers cannot share a batch equally."""
    kind = command.own.cluster
    check_sharing(command.stages, command.place, kind)
    return [
        estimate(
            stage,
            command.place,
            kind,
            with_images(
                images_of(stage, command.place), command.own.images, command.own.mean_bytes
            ),
        )
        for stage in command.stages
    ]


def as_json(estimates: list[Estimate], command: Command[PlanOptions]) -> dict[str, Any]:
    """Return the estimates as plain values; field names end in their units."""
    return {
        "recipe": command.options.recipe,
        "on": command.own.on,
        "cluster": asdict(command.own.cluster),
        "stages": [asdict(stage) for stage in estimates],
        "days": sum(stage.days for stage in estimates),
        "dollars": sum(stage.dollars for stage in estimates),
        "place_that_fits": fitting_place(estimates, command.place, command.own.cluster),
    }
