"""Gather what a report shows from MLflow and the manifests, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.cli.options import Command
from pipelines.cli.redaction import redact
from pipelines.lineage.manifest import Manifest
from pipelines.lineage.status import attempts_under
from pipelines.recipes.errors import Mistake
from pipelines.recipes.fingerprint import flatten
from pipelines.tracking import reader as tracking_read
from storage.errors import StorageError

Curve = list[tuple[int, float]]
"""(step, value), ascending by step."""

CURVES = ("train/", "val/", "val_ema/")  # prefixes of the metrics whose history is shown
_MOST_PICTURE_BYTES = 4 << 20
_ALL_PICTURE_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True)
class StageContent:
    """One attempt at a stage."""

    name: str
    attempt: str
    """Name of the attempt's folder: fingerprint, and a number if it is not the first."""
    status: str
    """MLflow's: FINISHED, FAILED, KILLED, RUNNING."""
    began_ms: int
    """Unix time in milliseconds."""
    ended_ms: int | None
    run_id: str
    uri: str
    """Where its weights lie."""
    manifest: Manifest | None
    """None where nothing is committed, or it cannot be read."""
    config: Mapping[str, str]
    """The stage's fields by dotted name."""
    tags: Mapping[str, str]
    """Without `vit.`."""
    metrics: Mapping[str, float]
    """Last value of each."""
    curves: Mapping[str, Curve]
    pictures: Mapping[str, bytes]
    """Name -> PNG."""
    left_out: Sequence[str]
    """Pictures that are too large or no PNG, with the reason."""

    @property
    def trains(self) -> bool:
        """Whether it is a training stage, not an evaluation, a study or a suite."""
        return "global_batch" in self.config


@dataclass(frozen=True, kw_only=True)
class Content:
    """One run."""

    run: str
    recipe: str
    run_id: str
    """MLflow's, of the parent run."""
    tracking_uri: str
    """Without credentials."""
    storage_root: str
    stages: tuple[StageContent, ...]
    """Oldest first."""
    notes: tuple[str, ...]
    """What could not be read."""


def gather(command: Command, client: Any) -> Content:
    """Gather everything that is known of the command's run.

    Args:
        command: names recipe, run and place.
        client: from `pipelines.tracking.client.open_client`.

    Raises:
        Mistake: MLflow knows no such run.
        pipelines.tracking.client.TrackingUnavailable: it does not answer.
    """
    recipe, run = command.options.recipe, command.options.run
    uri, root = redact(command.place.mlflow_uri), command.place.storage_root
    known = tracking_read.read_run(client, experiment=recipe, run=run)
    if known is None:
        raise Mistake(
            f"MLflow at {uri} has no run {run!r} of recipe {recipe!r} - run: pipelines/pipeline.py"
            f" --recipe {recipe} --run {run}"
        )
    notes: list[str] = []
    manifests: dict[str, Manifest] = {}
    try:
        for stored in attempts_under(root, run=run):
            if stored.attempt.manifest is not None:
                manifests[stored.attempt.uri] = stored.attempt.manifest
    except StorageError as error:
        notes.append(f"the manifests cannot be read: {' '.join(str(error).split())}")
    run_id, records = known
    spent = 0
    stages: list[StageContent] = []
    for record in records:
        pictures, left_out, spent = _pictures(client, record.run_id, spent)
        stages.append(_stage(client, record, manifests, pictures, left_out))
    return Content(
        run=run,
        recipe=recipe,
        run_id=run_id,
        tracking_uri=uri,
        storage_root=root,
        stages=tuple(stages),
        notes=tuple(notes),
    )


def _stage(
    client: Any,
    record: tracking_read.RunRecord,
    manifests: Mapping[str, Manifest],
    pictures: dict[str, bytes],
    left_out: list[str],
) -> StageContent:
    tags = {
        name.removeprefix("vit."): value
        for name, value in record.tags.items()
        if name.startswith("vit.")
    }
    uri = tags.get("attempt", "")
    manifest = manifests.get(uri)
    config = manifest.stage if manifest else None
    return StageContent(
        name=tags.get("stage", record.name),
        attempt=str((manifest and manifest.attempt) or uri.rstrip("/").rpartition("/")[2]),
        status=record.status,
        began_ms=record.began_ms,
        ended_ms=record.ended_ms,
        run_id=record.run_id,
        uri=uri,
        manifest=manifest,
        config={k: str(v) for k, v in flatten(config).items()} if config else dict(record.params),
        tags=tags,
        metrics=record.metrics,
        curves={
            name: tracking_read.read_history(client, record.run_id, name)
            for name in sorted(record.metrics)
            if name.startswith(CURVES) and "global_batch" in record.params
        },
        pictures=pictures,
        left_out=left_out,
    )


def _pictures(client: Any, run_id: str, spent: int) -> tuple[dict[str, bytes], list[str], int]:
    """The run's PNGs, names of those that are left out, and the bytes taken so far."""
    taken: dict[str, bytes] = {}
    left_out: list[str] = []
    for name, size in tracking_read.list_files(client, run_id, "pictures"):
        if not name.endswith(".png"):
            continue
        if size > _MOST_PICTURE_BYTES or spent + size > _ALL_PICTURE_BYTES:
            left_out.append(f"{name}: {size / 2**20:.1f} MiB, too large for the page")
            continue
        data = tracking_read.read_file(client, run_id, name)
        if not data.startswith(b"\x89PNG\r\n\x1a\n"):
            left_out.append(f"{name}: not a PNG")
            continue
        taken[name] = data
        spent += len(data)
    return taken, left_out, spent
