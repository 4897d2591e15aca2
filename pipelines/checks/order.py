"""`pipelines/verify_order.py`: the same global batches for every worker count, killed or not.

Ranks are real processes that are fed as training workers are (`OrderedDataConfig`, the newest
resume state as cursor), without a model. In a run with kills a rank is killed, now and then with a
process that decodes; the whole group goes, and another of another size continues from the last
cursor. Of each step the names of its samples and the checksums of its pixels are kept. Compared are
the digests of all global batches in order; that an epoch holds each sample once is counted.
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
from pipelines.cli.exits import errors_as_exits
from pipelines.cli.options import program_name, read_options
from pipelines.cli.place import CONFIG
from pipelines.cli.ray_session import ray_session
from pipelines.lineage.resume_states import drop_states
from pipelines.lineage.start_weights import init_place
from pipelines.recipes import find_recipe
from pipelines.recipes.errors import Mistake
from pipelines.recipes.streams import train_spec
from storage.dataset import load_dataset
from storage.index import load_index
from storage.order import OrderSpec, steps_per_epoch
from storage.stream import StreamSpec, order_of
from storage.uri import join


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is proven."""

    recipe: str = "digits"
    """Recipe whose data, batch, seed and crop are used."""
    stage: str | None = None
    """Its stage; default: the first."""
    dataset: str | None = None
    """Another place of the dataset: a directory or s3://bucket/prefix."""
    config: Path = CONFIG
    """Deployment settings."""
    steps: int | None = None
    """Steps to read; default: two epochs, 200 at most."""
    workers: tuple[int, ...] = (1, 2, 4)
    """Worker counts; each must divide the global batch."""
    kills: int = 3
    """Kills in each of the killed runs."""
    seed: int = 0
    """Chooses who is killed, and when."""


@dataclass(frozen=True)
class Outcome:
    """What one run saw, as digests."""

    workers: str
    kills: int
    samples: int
    keys: str
    pixels: str
    once: str
    """How often each sample came up in a whole epoch: `yes` for exactly once."""


def main(description: str) -> NoReturn:
    """Prove it, print the table; exit 0 if all runs agree, 1 if not, 2 for a mistake."""
    with errors_as_exits():
        settings, place = read_options(
            Settings, sys.argv[1:], prog=program_name(), description=description
        )
        runs = prove(settings, place)
    equal = print_table(runs)
    sys.exit(0 if equal else 1)


def prove(settings: Settings, place: Place) -> list[Outcome]:
    """Every worker count unbroken, then one run with kills that begins with each of them."""
    recipe = find_recipe(settings.recipe)
    stage = recipe.stage(settings.stage) if settings.stage else recipe.stages[0]
    uri = init_place(settings.dataset) or join(place.data_root, stage.data.dataset)
    attempt = join(place.storage_root, f".verify-order-{uuid.uuid4().hex}")
    for workers in settings.workers:
        if workers < 1 or stage.global_batch % workers:
            raise Mistake(
                f"--workers {workers}: the global batch {stage.global_batch} of stage {stage.name}"
                " does not divide by it"
            )
    spec = train_spec(stage, uri)
    order = order_of(spec)
    steps = settings.steps or min(2 * steps_per_epoch(order), 200)
    if steps < 1 or settings.kills < 0 or settings.kills >= steps:
        raise Mistake(f"wanted at least 1 step and fewer kills than steps, found {steps} steps")
    optim = replace(stage.optim, warmup_steps=0, cooldown_steps=0)  # would not fit few steps
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
                    drop_states(attempt)  # nothing else is ever written there
                name = "-".join(map(str, sizes))
                outcomes.append(summarize(name, history, spec, order))
                print(f"{name} workers: {steps} steps, {history.kills} kills", flush=True)
    return outcomes


def summarize(workers: str, history: History, spec: StreamSpec, order: OrderSpec) -> Outcome:
    """Digests of what a run saw."""
    index = load_index(load_dataset(spec.dataset), spec.split)
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
        exactly_once(history, order),
    )


def exactly_once(history: History, order: OrderSpec) -> str:
    """`yes` if every epoch that was read whole holds each of its samples once; else how not."""
    positions = np.concatenate([step.positions for step in history.steps])
    epochs = np.concatenate([step.epochs for step in history.steps])
    for epoch in np.unique(epochs):
        seen = positions[epochs == epoch]
        twice = len(seen) - len(np.unique(seen))
        if twice:
            return f"no: epoch {epoch} has {twice} twice"
    samples_per_epoch = (
        order.samples if order.tail == "carry" else steps_per_epoch(order) * order.global_batch
    )
    last = int(epochs.max())
    short = [epoch for epoch in range(last) if (epochs == epoch).sum() != samples_per_epoch]
    return f"no: epoch {short[0]} is not whole" if short else "yes"


def print_table(runs: list[Outcome]) -> bool:
    """The runs; whether all of them saw the same, each sample once."""
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
    print("every run saw the same batches" if equal else "the runs DIFFER")
    return equal
