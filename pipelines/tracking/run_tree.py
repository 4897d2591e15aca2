"""Find MLflow runs by their tags, and keep a parent run's status in step with its stages.

A parent run is RUNNING while one of its stages is, and ends with the status of the last one. Runs
that a dead driver left RUNNING are closed by the next driver of the same `--run` on that machine:
each run's tag names its driver's machine, and a living driver there holds the lock of its spool.
"""

import socket
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow.entities import Metric

from pipelines.tracking.spool_file import is_held, spool_folder

PARENT_RUN = "mlflow.parentRunId"
DRIVER = "vit.driver_host"
RUNNING, KILLED = "RUNNING", "KILLED"


def here() -> str:
    """Return the value of tag DRIVER for this machine."""
    return socket.gethostname()


def find_run(client: Any, experiment_id: str, tags: Mapping[str, str]) -> Any | None:
    """Return the newest run with these tags; None if there is none."""
    # MLflow's filters quote with ' or "; a value that holds both cannot be written.
    quotes = {name: '"' if "'" in value else "'" for name, value in tags.items()}
    filters = [
        f"tags.`{name}` = {quotes[name]}{value}{quotes[name]}"
        for name, value in tags.items()
        if quotes[name] not in value
    ]
    for run in search(client, experiment_id, " and ".join(filters)):
        if all(run.data.tags.get(name) == value for name, value in tags.items()):
            return run
    return None


def search(client: Any, experiment_id: str, wanted: str) -> Iterator[Any]:
    """Yield all runs that match a filter, newest first, from all pages."""
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], filter_string=wanted, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def begin(client: Any, run: Any) -> None:
    """Mark a starting stage's run and its parent as RUNNING, and tag the machine.

    Sibling runs whose driver died are closed first; otherwise the parent would never end.
    """
    parent_id = run.data.tags.get(PARENT_RUN)
    client.set_tag(run.info.run_id, DRIVER, here())
    client.update_run(run.info.run_id, status=RUNNING)
    if parent_id is None:
        return
    for other in _children(client, run.info.experiment_id, parent_id):
        if other.info.run_id != run.info.run_id and _is_abandoned(other):
            client.set_terminated(other.info.run_id, KILLED, _last_word_ms(other))
    client.update_run(parent_id, status=RUNNING)


def end(client: Any, run_id: str, status: str, ended_ms: int) -> None:
    """Close the run of a stage that ended, and its parent unless another of its stages runs."""
    client.set_terminated(run_id, status, ended_ms)
    run = client.get_run(run_id)
    parent_id = run.data.tags.get(PARENT_RUN)
    if parent_id is None:
        return
    client.log_batch(parent_id, metrics=_for_parent(client, run))
    others = _children(client, run.info.experiment_id, parent_id)
    if not any(other.info.status == RUNNING and not _is_abandoned(other) for other in others):
        client.set_terminated(parent_id, status, ended_ms)


def evaluated(client: Any, run: Any, step: int) -> list[Any]:
    """The metrics of the evaluation after so many steps: with `keep: best` not the run's last."""
    names = [name for name in run.data.metrics if name.startswith("val")]
    history = [client.get_metric_history(run.info.run_id, name) for name in names]
    return [point for points in history for point in points if point.step == step]


def _for_parent(client: Any, run: Any) -> list[Metric]:
    """What a stage's weights reached, under the stage's name, for MLflow's first table."""
    stage = run.data.tags.get("vit.stage", "stage")
    models = run.outputs.model_outputs if run.outputs else []
    return [
        Metric(f"{stage}/{point.key}", point.value, point.timestamp, point.step)
        for model in models[-1:]
        for point in evaluated(client, run, model.step)
    ]


def _children(client: Any, experiment_id: str, parent_id: str) -> list[Any]:
    return list(search(client, experiment_id, f"tags.`{PARENT_RUN}` = '{parent_id}'"))


def _is_abandoned(run: Any) -> bool:
    """Return whether its driver was on this machine and is gone; False for other machines."""
    if run.info.status != RUNNING or run.data.tags.get(DRIVER) != here():
        return False
    return not is_held(spool_folder() / f"{run.info.run_id}.jsonl")


def _last_word_ms(run: Any) -> int:
    """Return the time of a run's last metric, or of its start."""
    times = [metric.timestamp for metric in run.data.to_proto().metrics]
    return max([run.info.start_time, *times])
