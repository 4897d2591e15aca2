"""A head without CPUs, as aws.yaml starts it: who may submit, where it listens, and a stage that
brings its nodes from zero."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.support.local_head import RAY, TOKEN, Head, running_head, status

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """One that brings CPU nodes."""
    spot = {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 2}
    with running_head(tmp_path_factory.mktemp("head"), {"cpu-spot": spot}) as head:
        yield head


def submit(head: Head, *command: str, token: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAY, "job", "submit", "--address", f"http://127.0.0.1:{head.dashboard}", "--", *command],
        env={**head.environment, "RAY_AUTH_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_only_the_token_opens_the_job_server(head: Head) -> None:
    assert status(head.dashboard) == 401
    assert status(head.dashboard, token="f" * 64) == 403
    assert status(head.dashboard, token=TOKEN) == 200
    refused = submit(head, "echo", "ran", token="f" * 64)
    assert refused.returncode != 0
    assert "ran" not in refused.stdout.split()
    done = submit(head, "echo", "ran", token=TOKEN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ran" in done.stdout.split()


@pytest.mark.slow
def test_the_dashboard_listens_on_loopback_alone(head: Head) -> None:
    listening = {
        (each.laddr.ip, each.laddr.port)
        for process in [head.process, *head.process.children(recursive=True)]
        for each in process.net_connections(kind="tcp")
        if each.status == psutil.CONN_LISTEN
    }
    assert [ip for ip, port in listening if port == head.dashboard] == ["127.0.0.1"]


@pytest.mark.slow
def test_a_stage_brings_its_nodes_from_zero_and_they_leave(head: Head, tmp_path: Path) -> None:
    def python(*arguments: str) -> None:
        subprocess.run(
            [sys.executable, "-P", *arguments],
            cwd=ROOT,
            env={**head.environment, "RAY_ADDRESS": head.address, "PATH": os.environ["PATH"]},
            timeout=240,
            check=True,
        )

    def nodes() -> str:
        command = [RAY, "status", "--address", head.address]
        said = subprocess.run(command, env=head.environment, capture_output=True, text=True)
        return said.stdout.split("Pending:")[0]

    assert "cpu-spot" not in nodes()
    python("pipelines/pack.py", "digits", "--out", f"{tmp_path}/data/digits")
    python(
        *("pipelines/pretrain.py", "--recipe", "digits", "--stage.steps", "12"),
        *("--stage.eval-every-steps", "12", "--place.wait-for-nodes"),
        *("--place.workers.gpus", "0", "--place.workers.cpus", "0.5"),
        *("--place.data-root", f"{tmp_path}/data", "--place.storage-root", f"{tmp_path}/runs"),
        *("--place.mlflow-uri", f"sqlite:///{tmp_path}/mlflow.db"),
    )
    (manifest,) = tmp_path.glob("runs/digits/pretrain/*/manifest.json")
    assert len(list(manifest.parent.glob("weights-*.safetensors"))) == 1
    deadline = time.monotonic() + 120
    while "cpu-spot" in nodes():
        assert time.monotonic() < deadline, nodes()
        time.sleep(2)
