"""Machines as people have them: variables of a launcher, few open files, little shared memory."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ray

ROOT = Path(__file__).parents[3]
FOREIGN = {
    **{"RANK": "7", "LOCAL_RANK": "3", "WORLD_SIZE": "64"},
    **{"MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "1"},  # an address that never answers
    **{"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"},  # nothing listens
}
"""What torchrun, SLURM or a company's proxy leave in a shell."""
NICENESS = 15  # what docs/reliability.md says of Ray's workers
SERVICES = 7  # processes of a Ray beside its workers; with a dashboard they are 18
TASK = """
import json, os, time

import psutil
import ray

import storage
from pipelines.cli.exits import errors_as_exits
from pipelines.cli.ray_session import ray_session

def task():
    shared = os.statvfs("/dev/shm")
    return {
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "cores": len(os.sched_getaffinity(0)),
        "package": storage.__file__,
        "shared_memory": shared.f_blocks * shared.f_frsize,
    }

with errors_as_exits(), ray_session(verbose=False):
    found = ray.get(ray.remote(task).remote())
    processes = psutil.Process().children(recursive=True)
    services = [p.name() for p in processes if not p.name().startswith(("ray::IDLE", "ray::task"))]
    print(json.dumps(found | {"services": services}), flush=True)
    (part,) = [p for p in processes if p.name() == "raylet"]
    part.kill()
    sleep = ray.remote(lambda: time.sleep(60))
    while True:
        try:
            ray.get(sleep.remote(), timeout=1)
        except ray.exceptions.GetTimeoutError:
            pass
"""


def test_workers_have_the_niceness_that_is_documented(ray_session: str) -> None:
    niceness = ray.get(ray.remote(lambda: os.getpriority(os.PRIO_PROCESS, 0)).remote())
    assert niceness == min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)


def with_little_shared_memory(command: list[str]) -> list[str]:
    """The command with a /dev/shm of 64 MiB, as in a container; as it is where root is needed."""
    script = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
    wrapped = ["unshare", "--mount", "sh", "-c", script, "sh"]
    able = (
        shutil.which("unshare")
        and not subprocess.run([*wrapped, "true"], capture_output=True).returncode
    )
    return [*wrapped, *command] if able else command


@pytest.mark.ray
def test_a_ray_on_a_small_and_odd_machine_works_and_its_death_is_one_line(tmp_path: Path) -> None:
    """No home, a long temporary folder, one core, 256 open files, 64 MiB of shared memory, a
    checkout with spaces and umlauts, another folder to work in.

    Only a Ray of its own shows what Ray does there.
    """
    checkout, elsewhere = tmp_path / "my möbel, trained", tmp_path / "elsewhere"
    for package in ("pipelines", "vit", "storage", "cluster"):
        shutil.copytree(ROOT / package, checkout / package)
    long = elsewhere / ("x" * 60)
    long.mkdir(parents=True)
    core = min(os.sched_getaffinity(0))

    def shrink() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        os.sched_setaffinity(0, {core})

    inherited = {name: v for name, v in os.environ.items() if not name.startswith("RAY_")}
    odd = {"HOME": "/dev/null", "TMPDIR": str(long), "RAY_ADDRESS": "", "RAY_worker_niceness": "0"}
    command = with_little_shared_memory([sys.executable, "-c", TASK])
    done = subprocess.run(
        command,
        cwd=elsewhere,
        env=inherited | FOREIGN | odd | {"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        preexec_fn=shrink,
        timeout=240,
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout.splitlines()[0])
    assert found["niceness"] == os.getpriority(os.PRIO_PROCESS, 0)  # as the variable says
    assert found["cores"] == 1
    assert found["package"] == str(checkout / "storage" / "__init__.py")
    if command[0] == "unshare":
        assert found["shared_memory"] == 64 << 20
    assert len(found["services"]) <= SERVICES, found["services"]

    note, *_, last = done.stderr.splitlines()
    assert note.startswith("note: ")
    assert "too long for Ray's sockets" in note
    assert last.startswith("error: Ray's raylet on this machine died (process ")
    assert last.endswith("run the same command again to continue from the last save")
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
