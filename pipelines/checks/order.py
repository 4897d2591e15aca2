"""`pipelines/verify_order.py`: check that every worker count gives the same batches, kills or not.

Ranks are real processes that read data as training workers do (`OrderedDataConfig`, with the newest
resume state as cursor), but without a model. In a test with kills, a rank is killed, sometimes with
a decoding process. The whole group then ends, and a group of another size continues from the last
cursor. Each step records the names of its samples and the checksums of its pixels. The digests of
all global batches are compared in order, and each epoch must contain every sample exactly once, or
where classes are balanced as often as their shares say.
"""

import sys
import uuid
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

import numpy as np
from rich.console import Console
from rich.table import Table

from cluster.settings import Place
from pipelines.checks.order_groups import History, Killing, Reading, follow
from pipelines.cli.command_line import program_name, read_options
from pipelines.cli.exits import errors_as_exits
from pipelines.cli.place import CONFIG
from pipelines.cli.ray_session import ray_session
from pipelines.lineage.resume_states import drop_states
from pipelines.lineage.source import init_location
from pipelines.recipes import find_recipe
from pipelines.recipes.errors import Mistake
from pipelines.recipes.streams import train_spec
from storage.balance import Balance
from storage.columns import StreamSpec, open_stream, order_of
from storage.dataset import load_dataset
from storage.index import load_index
from storage.order import OrderSpec, steps_per_epoch
from storage.uri import join


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of `verify_order.py`."""

    recipe: str = "digits"
    """Recipe that gives data, global batch, seed and crop."""
    stage: str | None = None
    """Stage of the recipe. Default: the first."""
    dataset: str | None = None
    """The packed dataset: a directory or s3://bucket/prefix. Default: that of the stage."""
    balance: Balance | None = None
    """Balance of the classes. Default: that of the stage."""
    shares: tuple[float, ...] | None = None
    """Share of each dataset of a mixture. Default: those of the stage."""
    config: Path = CONFIG
    """YAML file with the deployment settings (--place.*)."""
    steps: int | None = None
    """Steps to read. Default: two epochs, but at most 200 steps."""
    workers: tuple[int, ...] = (1, 2, 4)
    """Worker counts to compare; each must divide the global batch."""
    kills: int = 3
    """Number of kills in each test with kills."""
    seed: int = 0
    """Seed that chooses which process is killed, and when."""


@dataclass(frozen=True)
class Outcome:
    """Digests of the batches that one test saw."""

    workers: str
    kills: int
    samples: int
    keys: str
    pixels: str
    once: str
    """`yes` if every complete epoch had each sample exactly once, or as often as its balance says;
    else how not."""


def main(description: str) -> NoReturn:
    """Compare, print a table; exit 0 if all tests agree, 1 if not, 2 for a wrong option."""
    with errors_as_exits():
        settings, place = read_options(
            Settings, sys.argv[1:], prog=program_name(), description=description
        )
        runs = prove(settings, place)
    equal = print_table(runs)
    sys.exit(0 if equal else 1)


def prove(settings: Settings, place: Place) -> list[Outcome]:
    """Test each worker count, once without kills and once with kills, starting at that count."""
    recipe = find_recipe(settings.recipe)
    stage = recipe.stage(settings.stage) if settings.stage else recipe.stages[0]
    if settings.balance is not None:
        stage = replace(stage, data=replace(stage.data, balance=settings.balance))
    if settings.shares is not None:
        stage = replace(stage, data=replace(stage.data, shares=settings.shares))
    given = settings.dataset
    uri = init_location(given) if given else join(place.data_root, stage.data.dataset)
    attempt = join(place.storage_root, f".verify-order-{uuid.uuid4().hex}")
    for workers in settings.workers:
        if workers < 1 or stage.global_batch % workers:
            raise Mistake(
                f"--workers {workers}: the global batch {stage.global_batch} of stage {stage.name}"
                " is not divisible by it"
            )
    spec = train_spec(stage, uri)
    order = order_of(spec)
    steps = settings.steps or min(2 * steps_per_epoch(order), 200)
    if steps < 1 or settings.kills < 0 or settings.kills >= steps:
        raise Mistake(
            f"--steps, --kills: wanted at least 1 step and fewer kills than steps,"
            f" found {steps} steps and {settings.kills} kills"
        )
    optim = replace(
        stage.optim, warmup_steps=0, cooldown_steps=0
    )  # could be longer than the few steps read here
    reading = Reading(replace(stage, steps=steps, optim=optim), place, uri, attempt)
    outcomes: list[Outcome] = []
    print(f"{stage.name} of {settings.recipe}: {steps} steps; Ray reports the kills below")
    with ray_session(verbose=place.verbose):
        for number, workers in enumerate(settings.workers):
            for killing in (None, Killing(settings.kills, settings.seed + number)):
                sizes = settings.workers[number:] + settings.workers[:number]
                sizes = (workers,) if killing is None else sizes
                try:
                    history = follow(reading, sizes, killing)
                finally:
                    drop_states(attempt)  # only resume states are written there
                name = "-".join(map(str, sizes))
                outcomes.append(summarize(name, history, spec, order))
                print(f"{name} workers: {steps} steps, {history.kills} kills", flush=True)
    return outcomes


def summarize(workers: str, history: History, spec: StreamSpec, order: OrderSpec) -> Outcome:
    """Compute the digests of a test."""
    dataset = load_dataset(spec.dataset)
    index = load_index(dataset, spec.split)
    keys, pixels = sha256(), sha256()
    for step in history.steps:
        rows = index.rows[step.positions]
        keys.update(np.ascontiguousarray(rows["shard"]).tobytes())
        keys.update(np.ascontiguousarray(rows["name"]).tobytes())
        pixels.update(step.checksums.tobytes())
    return Outcome(
        workers,
        history.kills,
        sum(len(step.positions) for step in history.steps),
        keys.hexdigest()[:12],
        pixels.hexdigest()[:12],
        exactly_once(history, order, open_stream(spec, dataset.digest).positions),
    )


def exactly_once(history: History, order: OrderSpec, selected: np.ndarray | None = None) -> str:
    """Say whether every epoch has each sample exactly once, or as often as the balance says.

    Args:
        history: what the ranks read, by position in the split.
        order: the order that was promised.
        selected: position in the split of each selected sample [N]; None if all are selected.

    Returns:
        `yes`, or what is wrong with the first epoch that is wrong.
    """
    positions = np.concatenate([step.positions for step in history.steps])
    epochs = np.concatenate([step.epochs for step in history.steps])
    for epoch in np.unique(epochs):
        seen, times = np.unique(positions[epochs == epoch], return_counts=True)
        if order.balanced is None:
            promised, excess = 1, "twice"
        else:
            chosen = seen if selected is None else np.searchsorted(selected, seen)
            promised, excess = order.balanced.times(int(epoch))[chosen], "too often"
        more = int(np.maximum(times - promised, 0).sum())
        if more:
            return f"no: epoch {epoch} has {more} {excess}"
    samples_per_epoch = (
        order.samples if order.tail == "carry" else steps_per_epoch(order) * order.global_batch
    )
    last = int(epochs.max())
    short = [epoch for epoch in range(last) if (epochs == epoch).sum() != samples_per_epoch]
    return f"no: epoch {short[0]} is not complete" if short else "yes"


def print_table(runs: list[Outcome]) -> bool:
    """Print the tests; return whether all saw the same batches, each sample once per epoch."""
    first = runs[0]
    table = Table(title="global batches", title_justify="left")
    for heading in ("workers", "kills", "samples", "keys", "pixels", "once", "equal"):
        table.add_column(heading, no_wrap=True)
    equal = True
    for run in runs:
        same = (run.samples, run.keys, run.pixels) == (first.samples, first.keys, first.pixels)
        equal = equal and same and run.once == "yes"
        table.add_row(
            *(run.workers, str(run.kills), str(run.samples), run.keys, run.pixels, run.once),
            "yes" if same else "NO",
        )
    Console(soft_wrap=True).print(table)
    print("every worker count saw the same batches" if equal else "the batches DIFFER")
    return equal
