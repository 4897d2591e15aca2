"""A storage root without room: the stage ends with one line, and the last good state is there."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.lineage.newest_state import newest_state
from storage.pieces import open_pieces
from tests.pipelines.conftest import Said


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_after_a_state(folder: Path, attempts: Path) -> None:
    """Leave no room once there is a state."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(attempts.glob("*/resume/*/manifest.json")):
        time.sleep(0.05)
    with (folder / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            return


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_full_disk_ends_the_stage_with_one_line(
    command: Callable[..., Said], place: list[str], small_disk: Path
) -> None:
    attempts = small_disk / "runs" / "full" / "pretrain"
    thread = threading.Thread(target=fill_after_a_state, args=(small_disk, attempts))
    thread.start()
    said = command(
        *("pretrain", "--run", "full", *place),
        *("--place.storage-root", str(small_disk / "runs")),
        *("--stage.steps", "100000", "--stage.model.depth", "1", "--stage.global-batch", "16"),
        *("--place.save-every-steps", "20", "--place.log-every-steps", "5"),
    )
    thread.join()
    assert said.code == 1, said
    assert said.err.count("\n") == 1
    assert "could not be saved" in said.err
    assert "No space left on device" in said.err
    assert "resumed" not in said.out  # no restart would mend it
    (folder,) = attempts.iterdir()
    state = newest_state(str(folder))
    assert state is not None
    with open_pieces(state.uri) as found:
        assert all(value.isfinite().all() for value in found.values())
