"""The laptop cluster as a person uses it: up, submit, a node that dies, down."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import yaml

from cluster.local.processes import State, family, nodes, read_state
from cluster.local.s3 import S3Server
from storage.objects import open_store
from tests.cluster.support.prometheus import asked_for, exported
from tests.cluster.test_grafana import GPU

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
IDLE_SECONDS = 20.0


@dataclass
class Laptop:
    folder: Path
    said: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> State:
        state = read_state(self.folder)
        assert state
        return state

    def nodes(self) -> list[psutil.Process]:
        """The raylets of the nodes."""
        return nodes(self.state)

    def python(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, *arguments, check=check)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=check,
        )


def local(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "cluster.local", *arguments, "--folder", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    folder = tmp_path_factory.mktemp("laptop") / "cluster"
    try:
        said = local(folder, "up", "--nodes", "3", "--cpus", "2", "--idle-seconds", "20")
        laptop = Laptop(folder, said)
        for line in (folder / "env.sh").read_text().splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            laptop.environment[name] = value
        place = yaml.safe_load((folder / "place.yaml").read_text())
        laptop.python("pipelines/pack.py", "digits", "--out", f"{place['data_root']}/digits")
        yield laptop
    finally:
        state = read_state(folder)
        before = family(state) if state else []
        said = local(folder, "down")
        assert psutil.wait_procs(before, timeout=10)[1] == []
    assert len(before) > 10
    assert said.startswith("ended")


def submit(laptop: Laptop, *options: str) -> subprocess.Popen[str]:
    """`ray job submit` as `up` prints it."""
    printed = re.search(r"^ray (job submit -- .*)$", laptop.said, re.MULTILINE)
    assert printed
    ray = str(Path(sys.executable).with_name("ray"))
    return subprocess.Popen(
        [ray, *printed[1].split(), *options],
        cwd=ROOT,
        env=os.environ | laptop.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def left_behind(laptop: Laptop, run: str) -> set[str]:
    """Files of the run's attempts on S3, by name without checksum; `resume/...` for states."""
    place = yaml.safe_load((laptop.folder / "place.yaml").read_text())
    assert place["storage_root"].startswith("s3://")
    keys = set(open_store(f"{place['storage_root']}/{run}").list())
    names = {key[key.find("resume/") :] if "/resume/" in key else Path(key).name for key in keys}
    return {re.sub(r"^(weights(?:_ema)?)-[0-9a-f]{12}\.", r"\1.", name) for name in names}


@pytest.fixture
def s3_variables(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in laptop.environment.items():
        if name in S3Server(endpoint="", access_key="", secret_key="").variables:
            monkeypatch.setenv(name, value)


def test_up_twice_says_so(laptop: Laptop) -> None:
    assert local(laptop.folder, "up").startswith("up already")
    assert local(laptop.folder, "status").count(" runs") == 3


def test_a_submitted_stage_brings_nodes_leaves_weights_and_metrics_and_the_nodes_go(
    laptop: Laptop, s3_variables: None
) -> None:
    assert laptop.nodes() == []
    job = submit(laptop, "--run", "grows", "--stage.steps", "40", "--stage.eval-every-steps", "20")
    seen, most, names = Outside(), 0, set[str]()
    while job.poll() is None:
        now = len(laptop.nodes())
        if now > most:
            seen.look(laptop)
        most = max(most, now)
        discovery = Path(laptop.state.scratch) / "prom_metrics_service_discovery.json"
        names |= exported(discovery) if discovery.exists() else set()
        time.sleep(3)  # looking is not free, and there are two cores
    seen.look(laptop)
    assert job.stdout
    assert job.returncode == 0, job.stdout.read()[-3000:]
    assert 1 <= most <= 3
    # torch's rendezvous (TCPStore) binds to every address and cannot be told otherwise
    assert {name for name in seen.names if "RayTrainWorker" not in name} == set()
    assert {"weights.safetensors", "manifest.json"} <= left_behind(laptop, "grows")
    assert mlflow_runs(laptop) >= {"FINISHED"}
    assert asked_for() - names == GPU  # there are none here
    deadline = time.monotonic() + IDLE_SECONDS + 120
    while laptop.nodes():
        assert time.monotonic() < deadline, "nodes stay although they are idle"
        time.sleep(1)


def test_a_node_that_dies_is_replaced_and_the_stage_finishes(
    laptop: Laptop, s3_variables: None
) -> None:
    options = ("--place.save-every-steps", "20", "--stage.eval-every-steps", "0")
    job = submit(laptop, "--run", "loses-a-node", "--stage.steps", "600", *options)
    deadline = time.monotonic() + 600
    state = re.compile(r"resume/.*manifest\.json")
    while not any(state.match(name) for name in left_behind(laptop, "loses-a-node")):
        assert job.poll() is None, ((job.stdout and job.stdout.read()) or "")[-3000:]
        assert time.monotonic() < deadline
        time.sleep(1)
    victim = next(
        raylet
        for raylet in laptop.nodes()
        if any("RayTrainWorker" in " ".join(each.cmdline()) for each in raylet.children())
    )
    others = {each.pid for each in laptop.nodes()} - {victim.pid}
    assert "manifest.json" not in left_behind(laptop, "loses-a-node"), "it was over before the kill"
    os.kill(victim.pid, signal.SIGKILL)
    later: set[int] = set()
    while job.poll() is None:
        later |= {each.pid for each in laptop.nodes()}
        time.sleep(1)
    assert job.stdout
    said = job.stdout.read()
    assert job.returncode == 0, said[-3000:]
    assert later - others - {victim.pid}, "no node came in its place"
    resumed = re.search(r"resumed after step (\d+)\b", said)
    assert resumed, said[-3000:]
    assert int(resumed[1]) in range(20, 600, 20), said[-3000:]
    assert {"weights.safetensors", "manifest.json"} <= left_behind(laptop, "loses-a-node")


def mlflow_runs(laptop: Laptop) -> set[str]:
    """Statuses of the runs at the server."""
    place = yaml.safe_load((laptop.folder / "place.yaml").read_text())
    request = urllib.request.Request(
        f"{place['mlflow_uri']}/api/2.0/mlflow/runs/search",
        data=b'{"experiment_ids": ["1"], "max_results": 100}',
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        return set(re.findall(r'"status": "(\w+)"', reply.read().decode()))


class Outside:
    """Which of the cluster's processes listen on other addresses than loopback."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def look(self, laptop: Laptop) -> None:
        for process in family(laptop.state):
            try:
                found = process.net_connections(kind="tcp")
                name = process.cmdline()[0]
            except (psutil.Error, IndexError):
                continue  # it ended
            listening = {each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN}
            if listening - {"127.0.0.1", "::ffff:127.0.0.1", "::1"}:
                self.names.add(name)
