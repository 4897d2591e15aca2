"""Where a stage's attempts lie and which one to take - decisions over what is committed.

    <storage_root>/<run>/<stage>/<fingerprint>       the first attempt
                                /<fingerprint>-2     a second one, made by --force

A committed attempt is never written to again.
"""

from dataclasses import dataclass
from typing import Any

from cluster.settings import Place
from pipelines.recipes.errors import Mistake
from pipelines.recipes.stage import Recipe, fingerprint
from storage import weights
from storage.dataset import load_dataset
from storage.errors import BadInput
from storage.uri import join


@dataclass(frozen=True)
class Attempt:
    """One attempt at a stage: its folder's name, and its manifest if it is committed."""

    name: str
    uri: str
    manifest: dict[str, Any] | None

    @property
    def fingerprint(self) -> str:
        """The content it is an attempt at."""
        return self.name.split("-", 1)[0]

    @property
    def number(self) -> int:
        """1 for the first attempt."""
        _, _, number = self.name.partition("-")
        return int(number or 1)


def committed_attempts(storage_root: str, run: str, stage: str) -> list[Attempt]:
    """The committed attempts of a stage in a run, by name."""
    folder = join(storage_root, run, stage)
    return [
        Attempt(name, join(folder, name), manifest) for name, manifest in weights.committed(folder)
    ]


def newest(attempts: list[Attempt], fingerprint: str) -> Attempt | None:
    """The last attempt at this content."""
    matching = [attempt for attempt in attempts if attempt.fingerprint == fingerprint]
    return max(matching, key=lambda attempt: attempt.number, default=None)


def attempt_to_make(attempts: list[Attempt], fingerprint: str) -> str:
    """Name of the attempt that comes after the committed ones."""
    last = newest(attempts, fingerprint)
    return fingerprint if last is None else f"{fingerprint}-{last.number + 1}"


def choose_parent(
    attempts: list[Attempt],
    *,
    of_recipe: str | None,
    asked: str | None,
    place: str,
    command: str,
) -> Attempt:
    """The parent to start from: the one asked for, else the recipe's own, else the only one.

    Args:
        attempts: committed attempts of the parent stage.
        of_recipe: fingerprint the recipe gives the parent; None where it cannot be known.
        asked: `--parent`, a fingerprint or attempt name.
        place: where was looked, for the message.
        command: what makes the weights, for the message.

    Raises:
        Mistake: nothing is committed there, or several are and none was asked for.
    """
    if not attempts:
        raise Mistake(f"no committed weights under {place} - run: {command}")
    names = ", ".join(attempt.name for attempt in attempts)
    if asked:
        exact = [attempt for attempt in attempts if attempt.name == asked]
        found = exact[0] if exact else newest(attempts, asked)
        if found is None:
            raise Mistake(f"--parent {asked} is not committed under {place}, only {names}")
        return found
    own = newest(attempts, of_recipe) if of_recipe else None
    if own is not None:
        return own
    contents = {attempt.fingerprint for attempt in attempts}
    if len(contents) > 1:
        raise Mistake(f"several parents are committed under {place}: choose by --parent {names}")
    last = newest(attempts, contents.pop())
    assert last is not None
    return last


def fingerprint_in_recipe(recipe: Recipe, name: str, place: Place) -> str | None:
    """The fingerprint a stage has when its whole ancestry is the recipe's own."""
    stage = recipe.stage(name)
    try:
        digest = load_dataset(join(place.data_root, stage.data.dataset)).digest
    except BadInput:  # its data may be gone by now; its weights need not be
        return None
    parent = stage.parent and fingerprint_in_recipe(recipe, stage.parent, place)
    return fingerprint(stage, dataset_digest=digest, parent=parent)
