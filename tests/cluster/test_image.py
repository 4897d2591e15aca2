"""cluster/Dockerfile: what the image must hold for GPU nodes."""

import re
from pathlib import Path

DOCKERFILE = (Path(__file__).parents[2] / "cluster" / "Dockerfile").read_text()


def test_the_image_has_a_compiler_and_ends_as_the_user_ray() -> None:
    (installed,) = re.findall(r"apt-get install .*? (g\+\+.*?) \\", DOCKERFILE)
    assert set(installed.split()) == {"g++", "gcc", "ninja-build"}
    assert re.findall(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE)[-1] == "ray"


def test_gpus_are_given_by_the_node_and_not_by_the_image() -> None:
    assert "NVIDIA_VISIBLE_DEVICES" not in DOCKERFILE  # a CPU node with that runtime would fail
