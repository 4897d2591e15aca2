"""The head that aws.yaml starts, on this machine: its own `ray start` line, ports and home, and
where asked an autoscaler whose nodes are processes here.

Stopped by its own process ids: `ray stop` would end every Ray of the machine.
"""

import json
import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray.util
import yaml

AWS = Path(__file__).parents[3] / "cluster" / "aws.yaml"
RAY = str(Path(sys.executable).with_name("ray"))
TOKEN = "0123456789abcdef" * 4
START_SECONDS = 120
HEAD_ID = "f" * 51 + "00000"  # what Ray's fake provider calls its head


@dataclass(frozen=True)
class Head:
    """A running head."""

    process: psutil.Process
    address: str
    dashboard: int
    environment: dict[str, str]
    """For its clients, the token included."""


@contextmanager
def running_head(home: Path, groups: dict[str, Any] | None = None) -> Iterator[Head]:
    """Start it, wait until it answers, end it. `groups` are node types that start at zero."""
    config = yaml.safe_load(AWS.read_text())
    (line,) = (c for c in config["head_start_ray_commands"] if "ray start --head" in c)
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}
    variable, _, *options = shlex.split(line.split(";")[1])
    assert variable == "RAY_AUTH_MODE=token"
    gcs, objects, dashboard, client, agent, metrics = free_ports(6)
    address = f"{ray.util.get_node_ip_address()}:{gcs}"
    options = [
        option.replace("--port=6379", f"--port={gcs}").replace("=8076", f"={objects}")
        for option in options
        if not option.startswith("--autoscaling-config")  # there is no cloud here
    ]
    environment = {name: v for name, v in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(TOKEN)
    own: dict[str, str] = {}
    if groups is not None:
        (home / "nodes.json").write_text(json.dumps(_launcher(groups, address)))
        options.append(f"--autoscaling-config={home / 'nodes.json'}")
        own = {
            "RAY_enable_autoscaler_v2": "1",  # as `ray up` sets it
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }
    with (home / "log").open("wb") as log:
        process = psutil.Popen(
            [
                *(RAY, *options, "--block", "--num-cpus=0", f"--dashboard-port={dashboard}"),
                *(f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"),
                f"--metrics-export-port={metrics}",
            ],
            env={**environment, **own},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while status(dashboard) is None:
            assert process.poll() is None, (home / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, (home / "log").read_text()[-2000:]
            time.sleep(0.5)
        yield Head(process, address, dashboard, environment)
    finally:
        family = [*process.children(recursive=True), process]
        for each in family:
            each.terminate()
        for each in psutil.wait_procs(family, timeout=10)[1]:
            each.kill()


def status(port: int, *, token: str = "") -> int | None:
    """How the job server on this machine answers; None: not at all."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/jobs/")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _launcher(groups: dict[str, Any], address: str) -> dict[str, Any]:
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    commands = ("initialization", "setup", "head_setup", "worker_setup")
    starts = ("head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "local",
        "max_workers": 4,
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "external",  # the wheel lacks the defaults of `fake_multinode`
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "launch_multiple": True,
            "head_node_id": HEAD_ID,
            "gcs_address": address,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {"ray.head.default": head, **groups},
        **{"auth": {}, "docker": {}, "file_mounts": {}, "cluster_synced_files": []},
        **{f"{name}_commands": [] for name in (*commands, *starts)},
    }
