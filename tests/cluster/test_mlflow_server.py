"""The MLflow server as cluster/kuberay/base/mlflow.yaml starts it, on loopback, with SQLite in
Postgres' place: who gets in, and who does not."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.support.kustomize import build

BASE = Path(__file__).parents[2] / "cluster" / "kuberay" / "base"
EXPERIMENTS = "/api/2.0/mlflow/experiments/search?max_results=1"
ADMIN = "admin:a-password-of-the-test"
START_SECONDS = 200

Ask = Callable[..., int]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Ask the server for a path; the status it answers with."""
    folder = tmp_path_factory.mktemp("mlflow")
    (server,) = (m for m in build(BASE) if m["kind"] == "Deployment")
    (container,) = server["spec"]["template"]["spec"]["containers"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "basic_auth.ini").write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{folder}/mlflow.db\n"
    )
    arguments = [
        argument.replace("--host=0.0.0.0", "--host=127.0.0.1")
        .replace("--port=5000", f"--port={port}")
        .replace("$(ARTIFACTS_DESTINATION)", str(folder / "artifacts"))
        for argument in container["args"]
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("mlflow"), "server", *arguments],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                **{one["name"]: one["value"] for one in container["env"] if "value" in one},
                "HOME": str(folder),
                "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
                "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
                "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN.split(":")[1],
                "MLFLOW_FLASK_SERVER_SECRET_KEY": "of the test",
                "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
            },
        )

    def ask(path: str, *, host: str = "mlflow:5000", user: str = "", body: object = None) -> int:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
        request.add_header("Host", host)
        request.add_header("Content-Type", "application/json")
        if user:
            encoded = base64.b64encode(user.encode()).decode()
            request.add_header("Authorization", f"Basic {encoded}")
        data = json.dumps(body).encode() if body else None
        try:
            with urllib.request.urlopen(request, data, timeout=60) as reply:
                return reply.status
        except urllib.error.HTTPError as error:
            return error.code

    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                ask("/health")
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
                time.sleep(0.5)
        yield ask
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_who_gets_in(ask: Ask) -> None:
    assert ask("/health", host="10.1.2.3:5000") == 200  # a probe of the kubelet's
    assert ask(EXPERIMENTS) == 401
    assert ask(EXPERIMENTS, user="admin:password1234") == 401  # MLflow's default, long ago
    assert ask(EXPERIMENTS, user=ADMIN) == 200
    assert ask(EXPERIMENTS, user=ADMIN, host="evil.example:5000") == 403
    made = ask(
        "/api/2.0/mlflow/users/create", user=ADMIN, body={"username": "ray", "password": "p" * 12}
    )
    assert made == 200
    new = {"name": "vit-h14-jft"}
    assert ask("/api/2.0/mlflow/experiments/create", user="ray:" + "p" * 12, body=new) == 200
