"""The head node: `ray start --head` without CPUs, and a description of the nodes it may start.

As in cluster/aws.yaml nothing is scheduled on the head, and the number of other nodes starts at
zero and returns to it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Do as Ray does on macOS and Windows: use the loopback address, and let GCS and raylets bind only
# to it. Without this `--node-ip-address=127.0.0.1` becomes the address seen from outside.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
HEAD_ID = "f" * 51 + "00000"  # id of the head in Ray's fake provider
OBJECT_STORE_BYTES = 256 * 2**20  # per node: shared memory of a laptop is small
RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Number and size of the nodes that the autoscaler may start."""

    most: int = 3
    cpus: int = 2
    """CPUs that each node reports; all nodes share this machine's CPUs."""
    idle_seconds: float = 60.0
    """Seconds without work after which a node is stopped."""


@dataclass(frozen=True, kw_only=True)
class HeadPorts:
    """Ports that the head listens on, on loopback."""

    gcs: int
    dashboard: int
    client: int
    agent: int
    metrics: int

    @property
    def address(self) -> str:
        """Value for RAY_ADDRESS."""
        return f"127.0.0.1:{self.gcs}"


def command(ports: HeadPorts, *, config: Path, scratch: Path) -> list[str]:
    """Command line of `ray start`, which keeps running and ends its processes with itself."""
    options = {
        "node-ip-address": "127.0.0.1",
        "port": ports.gcs,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": ports.dashboard,
        "dashboard-agent-listen-port": ports.agent,
        "ray-client-server-port": ports.client,
        "metrics-export-port": ports.metrics,
        "min-worker-port": 0,  # any: the default range is the same for every Ray here
        "max-worker-port": 0,
        "num-cpus": 0,
        "object-store-memory": OBJECT_STORE_BYTES,
        "temp-dir": scratch,
        "autoscaling-config": config,
    }
    return [RAY, "start", "--head", "--block", *(f"--{k}={v}" for k, v in options.items())]


def environment() -> dict[str, str]:
    """Environment that makes `ray start` run autoscaler v2 with nodes on this machine."""
    return {
        "RAY_enable_autoscaler_v2": "1",  # as `ray up` sets it
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_raylet_start_wait_time_s": "120",  # 30 are too few on a busy laptop
    }


def autoscaling(nodes: Nodes, ports: HeadPorts) -> dict[str, Any]:
    """The autoscaler's configuration, in the form of a cluster launcher file with its defaults."""
    resources = {"CPU": nodes.cpus, "object_store_memory": OBJECT_STORE_BYTES}
    group = {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": nodes.most}
    commands = ("initialization", "setup", "head_setup", "worker_setup")
    starts = ("head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "vit-on-ray-local",
        "max_workers": nodes.most,
        "idle_timeout_minutes": nodes.idle_seconds / 60,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "external",
            # by module: the provider `fake_multinode` lacks its defaults file in the wheel
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "launch_multiple": True,
            "disable_node_updaters": True,  # no SSH: a node is only a raylet
            "head_node_id": HEAD_ID,
            "gcs_address": ports.address,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "cpu-spot": group,
        },
        **{"auth": {}, "docker": {}, "file_mounts": {}, "cluster_synced_files": []},
        **{f"{name}_commands": [] for name in (*commands, *starts)},
    }
