"""`pipelines/plan.py`: what a recipe takes on a cluster, before anything is paid for.

It needs no GPU, no running Ray, no MLflow, and not even the data: where the dataset is packed its
real counts and bytes are taken, else the recipe's or those of `--images` and `--mean-bytes`.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from pipelines.cli.exits import errors_as_exits
from pipelines.cli.options import Command, parse_quietly, program_name, read_command
from pipelines.cli.place import CONFIG
from pipelines.planning.estimate import Estimate, check_sharing, estimate, fitting_place
from pipelines.planning.hardware import CLUSTERS, Cluster, default_kind, find_cluster
from pipelines.planning.images import images_of, with_images
from pipelines.planning.tables import print_plan
from pipelines.recipes.errors import Mistake


def main(description: str) -> NoReturn:
    """Print the plan; exit as `pipelines.exits` says."""
    with errors_as_exits():
        command = read_plan(sys.argv[1:], prog=program_name(), description=description)
        estimates = plan(command)
        if command.more["json"]:
            print(json.dumps(as_json(estimates, command), indent=1))
        else:
            print_plan(estimates, command)
    sys.exit(0)


def read_plan(argv: list[str], *, prog: str, description: str) -> Command:
    """Parse the arguments: those of `pipeline.py`, or with `--only STAGE` those of that stage.

    Raises:
        Mistake: one line for whatever is wrong with them.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--on", default=None)
    early.add_argument("--only", default=None)
    early.add_argument("--config", type=Path, default=CONFIG)
    first = parse_quietly(prog, lambda: early.parse_known_args(argv)[0])
    on = first.on or default_kind(first.config)
    kinds = ", ".join(CLUSTERS)
    more = {
        "on": (str, on, f"Kind of node: {kinds}."),
        "only": (str | None, None, "Plan this stage alone, and override it by --stage.FIELD."),
        "images": (int | None, None, "Training images, where the dataset is not packed yet."),
        "mean_bytes": (float | None, None, "Bytes of a stored image, where it is not packed yet."),
        "json": (bool, False, "Print JSON, bytes and seconds, for machines."),
        "cluster": (Cluster, find_cluster(on), f"The nodes; defaults are those of {on!r}."),
    }
    command = read_command(
        argv, stage_name=first.only, prog=prog, description=description, more=more
    )
    for name in ("images", "mean_bytes"):
        if command.more[name] is not None and not command.more[name] > 0:
            raise Mistake(
                f"--{name.replace('_', '-')}: wanted more than 0, found {command.more[name]}"
            )
    return command


def plan(command: Command) -> list[Estimate]:
    """The estimates of all stages. Raises BadPlace where workers cannot share a batch."""
    cluster: Cluster = command.more["cluster"]
    check_sharing(command.stages, command.place, cluster)
    return [
        estimate(
            stage,
            command.place,
            cluster,
            with_images(
                images_of(stage, command.place), command.more["images"], command.more["mean_bytes"]
            ),
        )
        for stage in command.stages
    ]


def as_json(estimates: list[Estimate], command: Command) -> dict[str, Any]:
    """The plan as plain values, in the units the field names say."""
    return {
        "recipe": command.options.recipe,
        "on": command.more["on"],
        "cluster": asdict(command.more["cluster"]),
        "stages": [asdict(one) for one in estimates],
        "days": sum(one.days for one in estimates),
        "dollars": sum(one.dollars for one in estimates),
        "place_that_fits": fitting_place(estimates, command.more["cluster"]),
    }
