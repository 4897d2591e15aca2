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

from cluster.settings import Place
from pipelines.cli.exits import errors_as_exits
from pipelines.cli.options import Command, parse_quietly, program_name, read_command
from pipelines.cli.place import CONFIG, place_of
from pipelines.estimate import (
    PHOTOGRAPH_BYTES,
    Estimate,
    Images,
    check_sharing,
    estimate,
    with_images,
)
from pipelines.footprint import fitting_place
from pipelines.hardware import CLUSTERS, Cluster, find_cluster
from pipelines.plan_tables import print_plan
from pipelines.recipes.paper import IMAGES
from pipelines.recipes.stage import Stage
from storage.dataset import Dataset, load_dataset
from storage.errors import StorageError, Unavailable
from storage.index import load_index
from storage.order import longest_run
from storage.stream import order_of
from storage.uri import join

_LARGEST_INDEX = 64 << 20  # bytes of an index that is fetched only to learn the length of a run


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
        ValueError: one line for whatever is wrong with them.
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
            raise ValueError(
                f"--{name.replace('_', '-')}: wanted more than 0, found {command.more[name]}"
            )
    return command


def default_kind(config: Path) -> str:
    """Without `--on`: this machine, or where workers hold GPUs the nodes of cluster/aws.yaml."""
    return "p4d" if place_of(config).workers.gpus else "laptop"


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


def images_of(stage: Stage, place: Place) -> Images:
    """The stage's images: those of the packed dataset, or what is known without it."""
    data = stage.data
    try:
        dataset = load_dataset(join(place.data_root, data.dataset))
        return _packed(stage, dataset)
    except StorageError as error:
        known = IMAGES.get(data.dataset)
        reason = "not packed" if not isinstance(error, Unavailable) else "unreachable"
        train = known or stage.steps * stage.global_batch or 1
        said = "its published size" if known else "one epoch assumed, give --images"
        longest = longest_run(train, global_batch=stage.global_batch)
        return Images(
            train=train,
            val=0,
            mean_bytes=PHOTOGRAPH_BYTES,
            run_samples=longest,  # what `natural_run` takes where shards were shuffled
            source=f"{data.dataset}: {reason}; {said}, evaluation not counted",
        )


def _packed(stage: Stage, dataset: Dataset) -> Images:
    from pipelines.feed import Feed

    data = stage.data
    shards = dataset.shards(data.train_split)
    samples = dataset.samples(data.train_split)
    feed = Feed(stage=stage, dataset_uri=dataset.uri, attempt_uri="", decode_cpus=1.0)
    train, val = samples, dataset.samples(data.val_split)
    run = longest_run(max(samples, 1), global_batch=stage.global_batch)
    size = sum(shard.bytes for shard in shards) / max(samples, 1)
    if dataset.indexes[data.train_split].bytes <= _LARGEST_INDEX:
        order = order_of(feed.train_spec(), dataset)
        train, run = order.samples, order.run_samples
        val = order_of(feed.val_spec(), dataset).samples
        size = float(load_index(dataset, data.train_split).rows["size"].mean())
    return Images(
        train=train,
        val=val,
        mean_bytes=size,
        run_samples=run,
        source=f"{dataset.uri}: counted",
    )


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
