"""Services of the launcher's nodes start, although the shell that starts them names them."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
@pytest.mark.parametrize(
    ("commands", "service"),
    [
        ("head_start_ray_commands", "mlflow server"),
        ("worker_start_ray_commands", "cluster.spot_notice"),
    ],
)
def test_a_service_starts(cloud: str, commands: str, service: str, tmp_path: Path) -> None:
    """Ray runs each line by `bash -c`: that shell's own command line holds the service's name."""
    launcher = yaml.safe_load(Path(f"cluster/{cloud}.yaml").read_text())
    (line,) = [line for line in launcher[commands] if "nohup" in line and service in line]
    line = line.replace("/home/ray/mlflow/server.log", str(tmp_path / "log"))
    stub = tmp_path / "nohup"
    stub.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/started\n')
    stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    subprocess.run(["bash", "-c", f"({line}) ; wait; sleep 0.3"], env=environment, check=True)
    assert (tmp_path / "started").exists()
