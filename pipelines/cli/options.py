"""What a command line means: the options of every script, and the command that they make."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

import yaml

from cluster.settings import Place
from pipelines.cli.place import CONFIG
from pipelines.cli.redaction import redact
from pipelines.recipes.errors import Mistake
from pipelines.recipes.fingerprint import plain
from pipelines.recipes.stage import Recipe, Stage

Own = TypeVar("Own")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every script that works on a recipe."""

    recipe: str
    """Recipe: its stages, with model, data, loss and optimizer of each. finetune.py with --init or
    --data takes the recipe called finetune by default."""
    run: str
    """Name of the run, a folder under --place.storage-root where stages find their parents. With
    --data and the recipe finetune, augreg-finetune or probe, the default is the dataset's name."""
    config: Path = CONFIG
    """YAML file with the deployment settings (--place.*)."""
    print_config: bool = False
    """Print the resolved configuration as YAML and exit."""
    force: bool = False
    """Run again although the result is committed: make a new attempt and keep the old one."""
    parent: str | None = None
    """Where a stage has several committed attempts, the one to use, by its fingerprint or name: of
    the stage before when training; in evaluate.py, predict.py and export.py of the stage itself."""

    def __post_init__(self) -> None:
        check_run(self.run)


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """No options of its own, for scripts that need none."""


@dataclass(frozen=True, kw_only=True)
class Command(Generic[Own]):
    """A resolved command line."""

    options: Options
    recipe: Recipe
    """The recipe, overrides applied."""
    stages: tuple[Stage, ...]
    """Stages to run: one of the recipe's, or all."""
    place: Place
    """Deployment settings, with absolute roots."""
    own: Own
    """The script's own options."""
    notes: tuple[str, ...] = ()
    """What was inferred from a checkpoint, for the user."""

    def as_yaml(self) -> str:
        """Return the resolved configuration, for --print-config."""
        shown = {
            "recipe": self.options.recipe,
            "run": self.options.run,
            "stages": {stage.name: asdict(stage) for stage in self.stages},
            "place": asdict(self.place) | {"mlflow_uri": redact(self.place.mlflow_uri)},
        }
        return yaml.dump(plain(shown), Dumper=yaml.SafeDumper, sort_keys=False)


def check_run(name: str) -> None:
    """Raise Mistake for a name that is no folder of its own under the storage root."""
    if not name.strip() or name.startswith(".") or "/" in name or not name.isprintable():
        raise Mistake(
            f"--run {name!r}: a run is one folder under storage_root - wanted a name that is not"
            " empty, does not begin with a dot and holds no '/'"
        )
