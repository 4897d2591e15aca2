"""List the attempts under a storage root with their parents, and what a pipeline would run now.

Reads only manifests: `<run>/<stage>/<attempt>/manifest.json` of committed attempts, and the names
of `.../resume/step-N/manifest.json` of unfinished ones.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.cli.exits import unwrapped
from pipelines.cli.options import Command
from pipelines.lineage.adoption import is_general
from pipelines.lineage.attempts import (
    Attempt,
    attempt_to_make,
    choose_parent,
    is_attempt,
    newest,
    started_last,
)
from pipelines.lineage.manifest import Manifest, read_manifest
from pipelines.lineage.newest_state import FOLDER as RESUME
from pipelines.lineage.newest_state import step_of
from pipelines.lineage.source import init_digest
from pipelines.recipes.errors import MISTAKES, Mistake
from pipelines.recipes.fingerprint import FORMAT_VERSION, fingerprint, flatten, plain
from pipelines.recipes.stage import Stage
from storage import weights
from storage.dataset import load_dataset
from storage.errors import StorageError
from storage.objects import open_store
from storage.uri import join

_NAMED = 4  # differing fields named in the table; --json names all


@dataclass(frozen=True, kw_only=True)
class StoredAttempt:
    """An attempt in storage, committed or unfinished."""

    run: str
    stage: str
    attempt: Attempt
    resume_step: int | None
    """Newest saved step of an unfinished attempt."""

    def record(self) -> dict[str, Any]:
        """Return what is known of the attempt, as plain values."""
        manifest = self.attempt.manifest
        parent = manifest.parent if manifest else None
        return {
            "run": self.run,
            "stage": self.stage,
            "attempt": self.attempt.name,
            "committed": manifest is not None,
            "step": manifest.step if manifest else self.resume_step,
            "val_accuracy": manifest.metrics.get("val/accuracy") if manifest else None,
            "started": manifest.started if manifest else None,
            "parent": parent and f"{parent.stage} {parent.attempt}",
            "mlflow_run_id": manifest.mlflow_run_id if manifest else None,
            "git_commit": manifest.git_commit if manifest else None,
            "uri": self.attempt.uri,
        }


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the pipeline would do with a stage if it were run now."""

    stage: str
    state: str
    """`committed`, `would continue`, `would be trained`, `parent missing` or `data missing`: those
    of its dataset, or of the checkpoint that `init` names."""
    fingerprint: str | None
    reason: str
    changes: tuple[str, ...] = ()
    """Inputs of the fingerprint that differ from those of the newest committed attempt."""


def attempts_under(storage_root: str, *, run: str | None = None) -> list[StoredAttempt]:
    """List the attempts under a root, or of one run, sorted by run, stage and name.

    Raises:
        storage.errors.Unavailable, AccessDenied: the storage cannot be listed.
    """
    committed: set[tuple[str, str, str]] = set()
    saved: dict[tuple[str, str, str], int] = {}
    for key in open_store(storage_root).list(f"{run}/" if run else ""):
        parts = key.split("/")
        if parts[-1] != weights.MANIFEST or parts[0].startswith("."):
            continue  # a folder with a dot is not a run: verify_order.py keeps its cursor there
        if len(parts) == 4:
            committed.add((parts[0], parts[1], parts[2]))
        elif len(parts) == 6 and parts[3] == RESUME:
            path = (parts[0], parts[1], parts[2])
            step = step_of(parts[4])
            if step is not None:
                saved[path] = max(saved.get(path, 0), step)
    stored = []
    for path in sorted(committed | set(saved)):
        uri = join(storage_root, *path)
        manifest = read_manifest(uri) if path in committed else None
        stored.append(
            StoredAttempt(
                run=path[0],
                stage=path[1],
                attempt=Attempt(path[2], uri, manifest),
                resume_step=saved.get(path),
            )
        )
    return stored


def what_would_run(command: Command, stored: Iterable[StoredAttempt]) -> list[Verdict]:
    """Return what the pipeline would do with each stage of the recipe, in order, and why."""
    own_run = (entry for entry in stored if entry.run == command.options.run)
    mine = [entry for entry in own_run if is_attempt(entry.attempt.name)]
    verdicts: list[Verdict] = []
    own: dict[str, str | None] = {}  # fingerprints, if all ancestors are stages of the recipe
    to_train: set[str] = set()
    for stage in command.recipe.stages:
        attempts = [entry for entry in mine if entry.stage == stage.name]
        verdict = _judge(stage, command, attempts, mine, own, to_train)
        verdicts.append(verdict)
        if verdict.state not in ("committed", "data missing"):
            to_train.add(stage.name)
    return verdicts


def _judge(
    stage: Stage,
    command: Command,
    attempts: list[StoredAttempt],
    mine: list[StoredAttempt],
    own: dict[str, str | None],
    to_train: set[str],
) -> Verdict:
    """Judge one stage; add its fingerprint to `own`."""
    own[stage.name] = None
    last = started_last(entry.attempt for entry in attempts)
    if (
        is_general(stage) and last is not None
    ):  # data and checkpoint come with finetune.py's options
        return Verdict(
            stage=stage.name,
            state="committed",
            fingerprint=last.fingerprint,
            reason=f"{last.name}; finetune.py with your options says whether they need another",
        )
    try:
        digest = load_dataset(join(command.place.data_root, stage.data.dataset)).digest
        init = init_digest(stage.init)
    except (StorageError, *MISTAKES) as error:
        return Verdict(
            stage=stage.name, state="data missing", fingerprint=None, reason=unwrapped(error)
        )
    of_parent = own.get(stage.parent) if stage.parent else None
    if not stage.parent or of_parent:
        own[stage.name] = fingerprint(stage, dataset_digest=digest, parent=of_parent, init=init)
    parent, after = of_parent, ""
    if stage.parent and stage.parent in to_train:
        after = f"after {stage.parent}"
    elif stage.parent:
        try:
            parent = choose_parent(
                [
                    entry.attempt
                    for entry in mine
                    if entry.stage == stage.parent and entry.attempt.manifest
                ],
                from_recipe=of_parent,
                requested=command.options.parent,
                looked_in=join(command.place.storage_root, command.options.run, stage.parent),
                command=f"pipelines/{stage.parent}.py --recipe {command.options.recipe}"
                f" --run {command.options.run}",
            ).fingerprint
        except Mistake as error:
            return Verdict(
                stage=stage.name, state="parent missing", fingerprint=None, reason=unwrapped(error)
            )
    if stage.parent and parent is None:
        return Verdict(stage=stage.name, state="would be trained", fingerprint=None, reason=after)
    name = fingerprint(stage, dataset_digest=digest, parent=parent, init=init)
    done = [entry.attempt for entry in attempts if entry.attempt.manifest]
    committed = newest(done, name)
    if committed is not None and not command.options.force and not after:
        return Verdict(stage=stage.name, state="committed", fingerprint=name, reason=committed.name)
    to_make = attempt_to_make(done, name)
    begun = next((entry.resume_step for entry in attempts if entry.attempt.name == to_make), None)
    if begun is not None:
        return Verdict(
            stage=stage.name,
            state="would continue",
            fingerprint=name,
            reason=f"{to_make} was saved after step {begun}",
        )
    changes = (
        differences(last.manifest, stage, digest, parent, init) if last and last.manifest else ()
    )
    if last is None:
        reason = "nothing is committed"
    elif changes:
        reason = f"differs from {last.name}: {'; '.join(changes[:_NAMED])}"
        reason += f"; and {len(changes) - _NAMED} more" if len(changes) > _NAMED else ""
    else:
        reason = "--force" if command.options.force else f"its parent changes: {last.name}"
    return Verdict(
        stage=stage.name,
        state="would be trained",
        fingerprint=name,
        reason=", ".join(part for part in (after, reason) if part),
        changes=changes,
    )


def differences(
    manifest: Manifest, stage: Stage, digest: str, parent: str | None, init: str | None = None
) -> tuple[str, ...]:
    """List the inputs of a fingerprint that differ from a manifest, as `field: old -> new`."""
    before, now = flatten(manifest.stage), flatten(plain(asdict(stage)))
    changed = [
        f"{name}: {before.get(name, 'none')} -> {now.get(name, 'none')}"
        for name in sorted((before.keys() | now.keys()) - {"init"})  # where it lies names nothing
        if name not in before or name not in now or before[name] != now[name]
    ]
    was = manifest.parent and manifest.parent.fingerprint
    others = (
        ("dataset digest", manifest.dataset and manifest.dataset.digest[:12], digest[:12]),
        ("parent", was, parent),
        ("checkpoint", manifest.init and manifest.init.sha256[:12], init and init[:12]),
        ("format_version", manifest.format_version, FORMAT_VERSION),
    )
    return (*changed, *(f"{name}: {old} -> {new}" for name, old, new in others if old != new))
