"""cluster/Dockerfile: what the image must hold for GPU nodes."""

import re
import subprocess
from pathlib import Path

import pytest

DOCKERFILE = (Path(__file__).parents[2] / "cluster" / "Dockerfile").read_text()


def test_the_image_has_a_compiler_and_ends_as_the_user_ray() -> None:
    (installed,) = re.findall(r"apt-get install .*? (g\+\+.*?) \\", DOCKERFILE)
    assert set(installed.split()) == {"g++", "gcc", "ninja-build"}
    assert re.findall(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE)[-1] == "ray"


def test_gpus_are_given_by_the_node_and_not_by_the_image() -> None:
    assert "NVIDIA_VISIBLE_DEVICES" not in DOCKERFILE  # a CPU node with that runtime would fail


@pytest.mark.parametrize("version", ["", "1.44.0"])
def test_efa_is_installed_where_a_version_is_given(version: str) -> None:
    """The image's own lines, run with functions in place of the programs that they call."""
    (script,) = re.findall(r"^RUN (if \[ -n .*?fi)$", DOCKERFILE, re.MULTILINE | re.DOTALL)
    steps = ["apt-get", "wget", "tar", "cd", "efa_installer.sh", "rm"]
    functions = "".join(f"{name}() {{ echo {name} $*; }}\n" for name in steps)
    done = subprocess.run(
        ["bash", "-e"],
        input=f"{functions}EFA_INSTALLER={version}\n{script.replace('./efa_', 'efa_')}",
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stdout.splitlines()
    assert done.stderr == ""
    assert [line.split()[0] for line in said] == (steps if version else [])
    if version:
        assert f"https://efa-installer.amazonaws.com/aws-efa-installer-{version}.tar.gz" in said[1]
        # A container has no kernel modules, and where an image is built there is no EFA to try.
        assert said[4] == "efa_installer.sh -y --skip-kmod --skip-limit-conf --no-verify"
