"""Where a stage's attempts lie and which one to take - decisions over what is committed.

    <storage_root>/<run>/<stage>/<fingerprint>       the first attempt
                                /<fingerprint>-2     a second one, made by --force

A committed attempt is never written to again. Other folders there, such as a copy named
<fingerprint>-backup, are no attempts.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster.settings import Place
from pipelines.lineage.manifest import WEIGHTS, Manifest, Parent, manifest_from_json
from pipelines.lineage.source import init_digest
from pipelines.recipes.errors import MISTAKES, Mistake
from pipelines.recipes.fingerprint import fingerprint
from pipelines.recipes.stage import Recipe
from storage import weights
from storage.dataset import load_dataset
from storage.uri import join, parse

_NAME = re.compile(r"[0-9a-f]{16}(-[1-9][0-9]*)?")


@dataclass(frozen=True)
class Attempt:
    """One attempt at a stage: its folder's name, and its manifest if it is committed."""

    name: str
    uri: str
    manifest: Manifest | None

    @property
    def fingerprint(self) -> str:
        """The content it is an attempt at."""
        return self.name.split("-", 1)[0]

    @property
    def number(self) -> int:
        """1 for the first attempt."""
        _, _, number = self.name.partition("-")
        return int(number or 1)


def is_attempt(name: str) -> bool:
    """Whether a folder's name is one that an attempt can have."""
    return _NAME.fullmatch(name) is not None


def committed_attempts(storage_root: str, run: str, stage: str) -> list[Attempt]:
    """The committed attempts of a stage in a run, by name."""
    folder = join(storage_root, run, stage)
    return [
        Attempt(name, uri := join(folder, name), manifest_from_json(values, uri))
        for name, values in weights.committed(folder)
        if is_attempt(name)
    ]


def newest(attempts: list[Attempt], fingerprint: str) -> Attempt | None:
    """The last attempt at this content."""
    matching = [attempt for attempt in attempts if attempt.fingerprint == fingerprint]
    return max(matching, key=lambda attempt: attempt.number, default=None)


def started_last(attempts: Iterable[Attempt]) -> Attempt | None:
    """The committed attempt that was started last, whatever its content."""
    return max(
        (attempt for attempt in attempts if attempt.manifest),
        key=lambda attempt: attempt.manifest.started if attempt.manifest else "",
        default=None,
    )


def attempt_to_make(attempts: list[Attempt], fingerprint: str) -> str:
    """Name of the attempt that comes after the committed ones."""
    last = newest(attempts, fingerprint)
    return fingerprint if last is None else f"{fingerprint}-{last.number + 1}"


def choose_parent(
    attempts: list[Attempt],
    *,
    looked_in: str,
    requested: str | None,
    from_recipe: str | None,
    command: str,
) -> Attempt:
    """The parent to start from: the one asked for, else the recipe's own, else the only one.

    Args:
        attempts: committed attempts of the parent stage.
        looked_in: the folder that was looked in, for the message.
        requested: `--parent`, a fingerprint or attempt name.
        from_recipe: fingerprint the recipe gives the parent; None where it cannot be known.
        command: what makes the weights, for the message.

    Raises:
        Mistake: nothing is committed there, or several are and none was asked for.
    """
    if not attempts:
        raise Mistake(
            f"no committed weights under {looked_in}{runs_beside(looked_in)} - run: {command}"
        )
    names = ", ".join(attempt.name for attempt in attempts)
    if requested:
        exact = [attempt for attempt in attempts if attempt.name == requested]
        found = exact[0] if exact else newest(attempts, requested)
        if found is None:
            raise Mistake(f"--parent {requested} is not committed under {looked_in}, only {names}")
        return found
    own = newest(attempts, from_recipe) if from_recipe else None
    if own is not None:
        return own
    contents = {attempt.fingerprint for attempt in attempts}
    if len(contents) > 1:
        known = ", ".join(_told(attempt) for attempt in attempts)
        raise Mistake(
            f"several attempts are committed under {looked_in}: choose one by --parent and its"
            f" name: {known}"
        )
    last = newest(attempts, contents.pop())
    assert last is not None
    return last


def _told(attempt: Attempt) -> str:
    """Name, accuracy and time of an attempt, by which it is recognised."""
    manifest = attempt.manifest
    assert manifest is not None
    accuracy = manifest.metrics.get("val/accuracy")
    said = [] if accuracy is None else [f"val/accuracy {accuracy:.4f}"]
    said += [f"started {manifest.started[:16]}"] if manifest.started else []
    return f"{attempt.name} ({', '.join(said)})" if said else attempt.name


def runs_beside(looked_in: str) -> str:
    """Name the runs that a local storage root has, for a run whose name was mistyped."""
    location = parse(looked_in)
    if location.bucket is not None:
        return ""
    run = Path(location.path).parent
    if run.is_dir() or not run.parent.is_dir():
        return ""
    runs = sorted(e.name for e in run.parent.iterdir() if e.is_dir() and e.name[0] != ".")[:8]
    return f" (runs here: {', '.join(runs)})" if runs else ""


def fingerprint_in_recipe(recipe: Recipe, name: str, place: Place) -> str | None:
    """The fingerprint a stage has when its whole ancestry is the recipe's own."""
    stage = recipe.stage(name)
    try:
        digest = load_dataset(join(place.data_root, stage.data.dataset)).digest
        init = init_digest(stage.init)
    except MISTAKES:  # its data may be gone by now; its weights need not be
        return None
    parent = stage.parent and fingerprint_in_recipe(recipe, stage.parent, place)
    return fingerprint(stage, dataset_digest=digest, parent=parent, init=init)


def parent_of(attempt: Attempt) -> Parent:
    """What a child remembers of a committed attempt."""
    manifest = attempt.manifest
    assert manifest is not None, f"{attempt.uri} is not committed"
    return Parent(
        stage=manifest.stage_name,
        fingerprint=attempt.fingerprint,
        attempt=attempt.name,
        weights_sha256=manifest.files[WEIGHTS].sha256,
        mlflow_run_id=manifest.mlflow_run_id,
    )


def attempt_for(
    storage_root: str, run: str, stage: str, fingerprint: str, *, force: bool
) -> Attempt:
    """The newest committed attempt at this content, or with `force`, or without one, the next."""
    attempts = committed_attempts(storage_root, run, stage)
    attempt = newest(attempts, fingerprint)
    if attempt is not None and not force:
        return attempt
    name = attempt_to_make(attempts, fingerprint)
    return Attempt(name, join(storage_root, run, stage, name), None)
