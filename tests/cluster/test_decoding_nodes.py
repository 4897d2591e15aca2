"""On real raylets: decoding stays off the nodes that train, workers start together or not at all,
and the head holds no image."""

import json
import subprocess
import sys
from typing import Any

import pytest

from storage.pack import pack
from storage.pack.digits import Digits
from tests.cluster.support.decoding_nodes import SIDE, STAGE, STEPS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("nodes")
    dataset = pack(Digits(), str(folder / "digits"))
    command = [
        sys.executable,
        "-m",
        "tests.cluster.support.decoding_nodes",
        dataset.uri,
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=560, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_all_blocks_are_decoded_on_the_node_without_gpus(seen: dict[str, Any]) -> None:
    assert seen["batches"] == 2 * STEPS
    assert seen["workers"] == ["gpu", "late gpu"]
    assert seen["decoded"] == ["cpu"]


def test_one_worker_does_not_start_before_the_other_fits(seen: dict[str, Any]) -> None:
    assert seen["alone"]["groups"].count("PENDING") == 1
    assert seen["alone"]["started"] == []
    assert seen["alone"]["free_gpus"] == 1.0


def test_no_image_passes_through_the_head(seen: dict[str, Any]) -> None:
    images = STEPS * STAGE.global_batch * SIDE * SIDE * 3
    assert seen["created"]["cpu"] > images
    assert seen["created"]["head"] < images / 20
