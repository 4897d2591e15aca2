"""Services of the launcher's nodes start once, although the shell that starts them names them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SLEEPS = "import time; time.sleep(60)\n"
PGREP = shutil.which("pgrep")


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.skipif(PGREP is None, reason="pgrep is not installed")
@pytest.mark.parametrize("cloud", ["aws", "gcp"])
@pytest.mark.parametrize(
    ("commands", "service", "stand_in"),
    [
        ("head_start_ray_commands", "mlflow server", "mlflow server --port 1"),
        (
            "worker_start_ray_commands",
            "cluster.spot_notice",
            f"{sys.executable} -P -m cluster.spot_notice --cloud x",
        ),
    ],
)
def test_a_service_starts_once(
    cloud: str, commands: str, service: str, stand_in: str, tmp_path: Path
) -> None:
    """Ray runs each line by `bash -c`: that shell's own command line holds the service's name."""
    launcher = yaml.safe_load(Path(f"cluster/{cloud}.yaml").read_text())
    (line,) = [line for line in launcher[commands] if "nohup" in line and service in line]
    line = line.replace("/home/ray/mlflow/server.log", str(tmp_path / "log"))
    script(tmp_path / "nohup", f"#!/bin/sh\ntouch {tmp_path}/started\n")
    # What else runs on this machine is left out.
    script(tmp_path / "pgrep", f'#!/bin/sh\nexec {PGREP} --session 0 "$@"\n')
    script(tmp_path / "mlflow", f"#!{sys.executable}\n{SLEEPS}")
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "__init__.py").touch()
    (tmp_path / "cluster" / "spot_notice.py").write_text(SLEEPS)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(tmp_path)}

    def starts(before: str = "", after: str = "") -> bool:
        (tmp_path / "started").unlink(missing_ok=True)
        subprocess.run(
            ["bash", "-c", f"{before} ({line} wait); {after}"],
            env={**os.environ, **path},
            check=True,
            start_new_session=True,
        )
        return (tmp_path / "started").exists()

    assert starts(after="true")
    assert not starts(before=f"{stand_in} & sleep 1;", after="kill $!")
