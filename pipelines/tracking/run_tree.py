"""Runs by their tags, and what a parent run says of the stages below it.

A parent run is RUNNING while one of its stages is, and ends as the last of them does. What a dead
driver left RUNNING the next driver of the same `--run` closes, where it can know: each run says on
which machine its driver is, and a living driver there holds the lock of the run's spool.
"""

import socket
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.tracking.spool import is_held, spool_folder

PARENT_RUN = "mlflow.parentRunId"
DRIVER = "vit.driver_host"
RUNNING, KILLED = "RUNNING", "KILLED"


def here() -> str:
    """What DRIVER says of a driver on this machine."""
    return socket.gethostname()


def find_run(client: Any, experiment_id: str, tags: Mapping[str, str]) -> Any | None:
    """The newest run with these tags, None if there is none."""
    # MLflow's filters quote by ' or ", and know no way to write a value that holds both.
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
    """All runs that match a filter, newest first, however many pages they are."""
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], filter_string=wanted, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def begin(client: Any, run: Any) -> None:
    """A stage starts: its run and its parent's are RUNNING, and say on which machine.

    Runs beside it whose driver died are closed first, or the parent would never end.
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
    """A stage has ended: so has its parent, unless another stage of it runs."""
    client.set_terminated(run_id, status, ended_ms)
    run = client.get_run(run_id)
    parent_id = run.data.tags.get(PARENT_RUN)
    if parent_id is None:
        return
    others = _children(client, run.info.experiment_id, parent_id)
    if not any(other.info.status == RUNNING and not _is_abandoned(other) for other in others):
        client.set_terminated(parent_id, status, ended_ms)


def _children(client: Any, experiment_id: str, parent_id: str) -> list[Any]:
    return list(search(client, experiment_id, f"tags.`{PARENT_RUN}` = '{parent_id}'"))


def _is_abandoned(run: Any) -> bool:
    """Whether its driver was on this machine and is gone; elsewhere nobody can tell."""
    if run.info.status != RUNNING or run.data.tags.get(DRIVER) != here():
        return False
    return not is_held(spool_folder() / f"{run.info.run_id}.jsonl")


def _last_word_ms(run: Any) -> int:
    """When a run was heard of last."""
    times = [metric.timestamp for metric in run.data.to_proto().metrics]
    return max([run.info.start_time, *times])
