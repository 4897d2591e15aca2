"""Deployment settings of a script: ray_config.yaml with overrides and absolute roots."""

from dataclasses import replace
from pathlib import Path

from cluster.errors import BadPlace
from cluster.settings import Place, ShardCache, read_place
from storage.cache import Cache
from storage.objects import open_store

CONFIG = Path("ray_config.yaml")


def place_of(config: Path) -> Place:
    """Read the deployment settings of a file; use the defaults if `ray_config.yaml` is missing."""
    return Place() if config == CONFIG and not CONFIG.exists() else read_place(config)


def resolve_place(place: Place, *, cwd: Path) -> Place:
    """Make relative roots absolute: workers have working directories of their own.

    Raises:
        BadPlace: a root is relative, and the job runs in an uploaded copy of the working directory,
            which Ray deletes with everything written there.
    """
    uploaded = "runtime_resources" in cwd.parts

    def absolute(name: str, root: str, prefix: str = "") -> str:
        if "://" in root or Path(root).is_absolute():
            return prefix + root
        if uploaded:
            raise BadPlace(
                f"{name} {root!r} is relative, but this job runs in an uploaded copy of the working"
                f" directory, which Ray deletes - set an absolute path or s3:// URL, for example"
                f" --place.{name.replace('_', '-')} {prefix}{Path.home() / 'vit-on-ray' / root}"
            )
        return f"{prefix}{cwd / root}"

    data_root = absolute("data_root", place.data_root)
    storage_root = absolute("storage_root", place.storage_root)
    sqlite, mlflow_uri = "sqlite:///", place.mlflow_uri
    if mlflow_uri.startswith(sqlite):
        mlflow_uri = absolute("mlflow_uri", mlflow_uri.removeprefix(sqlite), sqlite)
    return replace(place, data_root=data_root, storage_root=storage_root, mlflow_uri=mlflow_uri)


def check_root(place: Place) -> None:
    """Check that results can be written. Raises a StorageError that gives the reason if not."""
    open_store(place.storage_root).check_writable()


def shard_cache(settings: ShardCache) -> Cache | None:
    """Return the shard cache of the deployment settings; None if it is switched off."""
    if settings.folder is None:
        return None
    return Cache(folder=settings.folder, bytes=int(settings.gibibytes * 2**30))
