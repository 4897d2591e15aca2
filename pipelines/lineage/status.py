"""What lies under a storage root, what came from what, and what a pipeline would do now.

Only manifests are read: `<run>/<stage>/<attempt>/manifest.json` of what is committed, and the names
of `.../resume/step-N/manifest.json` of what is not.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.cli.exits import unwrapped
from pipelines.cli.options import Command
from pipelines.lineage.attempts import Attempt, attempt_to_make, choose_parent, is_attempt, newest
from pipelines.lineage.manifest import Manifest, read_manifest
from pipelines.lineage.resume_states import FOLDER as RESUME
from pipelines.lineage.resume_states import step_of
from pipelines.lineage.start_weights import init_digest
from pipelines.recipes.errors import MISTAKES, Mistake
from pipelines.recipes.stage import FORMAT_VERSION, Stage, fingerprint, flatten, plain
from storage import weights
from storage.dataset import load_dataset
from storage.errors import StorageError
from storage.objects import open_store
from storage.uri import join

_NAMED = 4  # fields that differ, said in the table; --json names all


@dataclass(frozen=True, kw_only=True)
class Found:
    """One attempt that lies in storage."""

    run: str
    stage: str
    attempt: Attempt
    resume_step: int | None
    """Newest saved step of an attempt that is not committed."""

    def record(self) -> dict[str, Any]:
        """What is known of it, as plain values."""
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
    """What would become of a stage if the pipeline were run now."""

    stage: str
    state: str
    """`committed`, `would continue`, `would be trained`, `parent missing` or `data missing`: those
    of its dataset, or of the checkpoint that `init` names."""
    fingerprint: str | None
    reason: str
    changes: tuple[str, ...] = ()
    """Inputs of the fingerprint that differ from the newest committed attempt's."""


def attempts_under(storage_root: str, *, run: str | None = None) -> list[Found]:
    """All attempts under a root, or those of one run, by run, stage and name.

    Raises:
        storage.errors.Unavailable, AccessDenied: the storage cannot be listed.
    """
    committed: set[tuple[str, str, str]] = set()
    saved: dict[tuple[str, str, str], int] = {}
    for key in open_store(storage_root).list(f"{run}/" if run else ""):
        parts = key.split("/")
        if parts[-1] != weights.MANIFEST or parts[0].startswith("."):
            continue  # a folder with a dot holds no run: verify_order.py keeps its cursor in one
        if len(parts) == 4:
            committed.add((parts[0], parts[1], parts[2]))
        elif len(parts) == 6 and parts[3] == RESUME:
            place = (parts[0], parts[1], parts[2])
            step = step_of(parts[4])
            if step is not None:
                saved[place] = max(saved.get(place, 0), step)
    found = []
    for place in sorted(committed | set(saved)):
        uri = join(storage_root, *place)
        manifest = read_manifest(uri) if place in committed else None
        found.append(
            Found(
                run=place[0],
                stage=place[1],
                attempt=Attempt(place[2], uri, manifest),
                resume_step=saved.get(place),
            )
        )
    return found


def what_would_run(command: Command, found: Iterable[Found]) -> list[Verdict]:
    """What the pipeline would do with each stage of the recipe, in order, and why."""
    own_run = (one for one in found if one.run == command.options.run)
    mine = [one for one in own_run if is_attempt(one.attempt.name)]
    verdicts: list[Verdict] = []
    own: dict[str, str | None] = {}  # fingerprints, where all ancestors are the recipe's
    to_train: set[str] = set()
    for stage in command.recipe.stages:
        attempts = [one for one in mine if one.stage == stage.name]
        verdict = _judge(stage, command, attempts, mine, own, to_train)
        verdicts.append(verdict)
        if verdict.state not in ("committed", "data missing"):
            to_train.add(stage.name)
    return verdicts


def _judge(
    stage: Stage,
    command: Command,
    attempts: list[Found],
    mine: list[Found],
    own: dict[str, str | None],
    to_train: set[str],
) -> Verdict:
    """One stage; adds its fingerprint to `own`."""
    own[stage.name] = None
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
                [one.attempt for one in mine if one.stage == stage.parent and one.attempt.manifest],
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
    done = [one.attempt for one in attempts if one.attempt.manifest]
    there = newest(done, name)
    if there is not None and not command.options.force and not after:
        return Verdict(stage=stage.name, state="committed", fingerprint=name, reason=there.name)
    to_make = attempt_to_make(done, name)
    begun = next((one.resume_step for one in attempts if one.attempt.name == to_make), None)
    if begun is not None:
        return Verdict(
            stage=stage.name,
            state="would continue",
            fingerprint=name,
            reason=f"{to_make} was saved after step {begun}",
        )
    last = max(done, key=lambda one: one.manifest.started if one.manifest else "", default=None)
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
    """What of a fingerprint's inputs is not as a committed manifest says: `field: old -> new`."""
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
