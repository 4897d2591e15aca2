"""A stage's weights in MLflow's registry: loaded by MLflow alone, and served over HTTP."""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from cluster.local.services import free_ports
from pipelines.exporting.command import main
from pipelines.tracking.attempt_run import open_tracker
from pipelines.tracking.client import open_client
from pipelines.tracking.tracker import FINISHED
from tests.pipelines.conftest import Said
from tests.pipelines.exporting.test_files_to_logits import ours
from tests.pipelines.support.committed import commit_stage
from tests.pipelines.support.photographs import CHINA, FLOWER, STAGE, Photos

START_SECONDS = 300  # on a busy machine
LOAD = """
import json, sys
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model("models:/photos@champion")
files = [open(name, "rb").read() for name in sys.argv[1:]]
rows = model.predict(pd.DataFrame({"image": files})).to_dict("records")
print(json.dumps({"rows": rows, "code": sys.modules["vit"].__file__}, default=str))
"""


@pytest.fixture
def registered(
    called: Callable[..., Said], photos: Photos, tmp_path: Path
) -> tuple[dict[str, str], Said]:
    """Export and register a stage twice; the environment in which MLflow finds it."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = open_tracker(
        open_client(uri),
        experiment="digits",
        run="served",
        stage="finetune",
        attempt="runs/served",
        tags={},
        params={},
    )
    tracker.end(FINISHED)
    commit_stage(
        photos.storage_root,
        STAGE,
        photos.data_root,
        run="served",
        average=photos.average,
        mlflow_run_id=tracker.run_id,
    )
    for out in ("first", "second"):
        said = called(
            main,
            "export",
            *photos.place(),
            *("--place.mlflow-uri", uri, "--run", "served", "--to", "mlflow"),
            *("--out", str(tmp_path / out), "--register", "photos"),
        )
        assert said.code == 0, said.err
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**inherited, "MLFLOW_TRACKING_URI": uri}, said


FILES = {"china.jpg": CHINA, "flower.jpg": FLOWER, "torn.jpg": CHINA[:999]}


def check(rows: list[dict[str, Any]], photos: Photos) -> None:
    """The rows of `FILES`: our logits, and a reason for what is no image."""
    *good, torn = rows
    for row, data in zip(good, (CHINA, FLOWER), strict=True):
        shares = ours(data, photos).double().softmax(0)
        assert row["class"] == ("china", "flower")[int(shares.argmax())]
        assert row["probability"] == pytest.approx(float(shares.max()), abs=1e-6)
    assert torn["error"]
    assert torn["class"] not in ("china", "flower")


def test_mlflow_serves_a_registered_stage(
    registered: tuple[dict[str, str], Said], photos: Photos, tmp_path: Path
) -> None:
    environment, said = registered
    assert "version 2 of photos" in said.out
    assert "mlflow models serve -m models:/photos@champion" in said.out
    with served(environment, tmp_path) as address:
        encoded = [{"image": base64.b64encode(data).decode()} for data in FILES.values()]
        rows = answer(f"{address}/invocations", {"dataframe_records": encoded})["predictions"]
    check(rows, photos)


@pytest.mark.slow
def test_mlflow_loads_a_registered_stage_with_its_own_copy_of_the_code(
    registered: tuple[dict[str, str], Said], photos: Photos, tmp_path: Path
) -> None:
    environment, _ = registered
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-c", LOAD, *FILES]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    loaded = json.loads(done.stdout)
    assert Path(loaded["code"]).parent.parent.name == "code"
    check(loaded["rows"], photos)


@contextmanager
def served(environment: dict[str, str], folder: Path) -> Iterator[str]:
    """Address of `mlflow models serve` on loopback."""
    (port,) = free_ports(1)
    mlflow = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/photos@champion"]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [*mlflow, "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        address, end = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
        while not is_up(address):
            assert process.poll() is None, (folder / "serve.log").read_text()
            assert time.monotonic() < end, (folder / "serve.log").read_text()
            time.sleep(0.2)
        yield address
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(60)


def is_up(address: str) -> bool:
    with suppress(URLError, OSError), urlopen(f"{address}/ping", timeout=10) as response:
        return response.status == 200
    return False


def answer(url: str, body: object) -> Any:
    request = Request(url, json.dumps(body).encode(), headers={"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as response:
        return json.load(response)


@pytest.mark.parametrize(
    ("run", "to", "words"),
    [
        ("photos", "timm", ["--register", "--to mlflow"]),
        ("photos", "mlflow", ["--register", "run"]),
    ],
)
def test_what_cannot_be_registered_is_refused_before_anything_is_written(
    run: str,
    to: str,
    words: list[str],
    called: Callable[..., Said],
    photos: Photos,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    options = ("--run", run, "--to", to, "--out", str(out), "--register", "photos")
    said = called(main, "export", *photos.place(), *options)
    assert said.code == 2
    assert all(word in said.err for word in words)
    assert not out.exists()
