"""README's way onto a cluster, walked in order by somebody whose home is new.

A script that starts a Ray of its own comes first, as `make demo` does. The head gets ports of its
own, and the walk in minutes replaces the stage by a script that reads.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cluster.local.processes import with_children, with_variable
from cluster.local.services import free_ports

RAY = str(Path(sys.executable).with_name("ray"))
ROOT = Path(__file__).parents[3]
TINY = "--stage.steps 2 --stage.eval-every-steps 0 --stage.optim.warmup-steps 0"


def readme_commands() -> list[str]:
    """The console block under "On a cluster", and the command in the text below it."""
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## On a cluster") :]
    block = section[section.index("```console") :].split("```")[1]
    lines = [line[2:].split(" #")[0].strip() for line in block.splitlines() if line[:2] == "$ "]
    assert "`RAY_ADDRESS=auto` before it" in section
    return [*lines, "RAY_ADDRESS=auto pipelines/pretrain.py"]


def test_readme_names_the_commands_that_are_walked() -> None:
    head, submit, auto = readme_commands()
    assert head == "ray start --head"
    assert submit == "ray job submit -- pipelines/pretrain.py"
    assert auto == "RAY_ADDRESS=auto pipelines/pretrain.py"


@pytest.fixture
def walk(tmp_path: Path, local_data: str) -> Iterator[Callable[[str], str]]:
    """Run a command line in the repository as that user; what it printed. Ends what it started."""
    home = tmp_path / "home"
    home.mkdir()
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("RAY_")}
    environment = inherited | {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_TMPDIR": str(Path("/tmp") / f"walk-{os.getpid()}"),  # `auto` means this head
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    gcs, dashboard, client, agent, metrics = free_ports(5)
    environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
    ports = (
        f" --port={gcs} --dashboard-port={dashboard} --ray-client-server-port={client}"
        f" --dashboard-agent-listen-port={agent} --metrics-export-port={metrics}"
        " --min-worker-port=0 --max-worker-port=0 --num-cpus=4"
    )
    place = (
        f" --place.data-root {local_data} --place.storage-root {tmp_path / 'runs'}"
        f" --place.mlflow-uri sqlite:///{tmp_path / 'mlflow.db'}"
    )

    def run(line: str) -> str:
        line += ports if line.startswith("ray start") else place if "pipelines/" in line else ""
        done = subprocess.run(
            ["bash", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"{line}: {said}"
        assert "AuthenticationError" not in said
        return said

    yield run
    for process in with_children(with_variable("RAY_TMPDIR", environment["RAY_TMPDIR"])):
        with suppress(psutil.NoSuchProcess):
            process.kill()


OWN_RAY = """
import ray
from pipelines.cli.ray_session import ray_session
with ray_session(verbose=False):
    print(ray.get(ray.remote(lambda: "a task ran").remote()))
"""


@pytest.mark.ray
@pytest.mark.timeout(900)  # five starts of Python with Ray, two of Ray itself
def test_the_commands_work_in_order_in_a_new_home(
    walk: Callable[[str], str], tmp_path: Path
) -> None:
    head, submit, auto = readme_commands()
    assert "a task ran" in walk(shlex.join([sys.executable, "-c", OWN_RAY]))
    assert not (tmp_path / "home" / ".ray").exists()
    walk(head)
    said = walk(submit.replace("pretrain.py", "status.py"))
    assert "would be trained" in said
    assert "succeeded" in said
    found = walk(auto.replace("pretrain.py", "doctor.py"))
    (line,) = [line for line in found.splitlines() if line.split()[1:2] == ["Ray"]]
    assert line.startswith("ok")
    assert "answers" in line


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_stage_trains_by_each_of_the_commands(walk: Callable[[str], str], tmp_path: Path) -> None:
    head, submit, auto = readme_commands()
    assert "val accuracy" in walk(f"pipelines/pretrain.py --run a {TINY}")
    walk(head)
    assert "val accuracy" in walk(f"{submit} --run b {TINY}")
    assert "val accuracy" in walk(f"{auto} --run d {TINY}")
