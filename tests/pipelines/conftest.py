"""A recipe of a few steps, and a command line run as a user runs it, in this process."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Any, NoReturn

import pytest
import torch

from cluster.local.s3 import S3Server
from pipelines.tracking.client import open_client
from pipelines.training.command import main as run_command
from storage.pack import pack
from storage.pack.digits import Digits
from tests.pipelines.support.photographs import Photos, make_photos

TINY = [
    argument
    for stage, steps in (("pretrain", 6), ("upscale", 2), ("finetune", 4))
    for argument in (
        *(f"--{stage}.steps", str(steps)),
        *(f"--{stage}.eval-every-steps", "0"),
        *(f"--{stage}.optim.warmup-steps", "1"),
        *(f"--{stage}.model.depth", "1"),
        *(f"--{stage}.global-batch", "16"),
    )
]  # fmt: skip


@dataclass(frozen=True)
class Said:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """Call the `main` of an entry script: `called(planning.main, "plan", "--json")`."""

    def call(main: Callable[[str], NoReturn], script: str, *arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", [f"pipelines/{script}.py", *arguments])
        with pytest.raises(SystemExit) as stop:
            main("test")
        said = capsys.readouterr()
        return Said(int(stop.value.code or 0), said.out, said.err)

    return call


@pytest.fixture
def command(called: Callable[..., Said]) -> Callable[..., Said]:
    """Call a stage's script: `command("pretrain", "--stage.steps", "3")`."""

    def call(stage: str | None, *arguments: str) -> Said:
        return called(partial(run_command, stage_name=stage), stage or "pipeline", *arguments)

    return call


@pytest.fixture(scope="session")
def local_data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data root with the digits packed."""
    root = tmp_path_factory.mktemp("data")
    pack(Digits(), str(root / "digits"))
    return str(root)


@pytest.fixture(scope="session")
def s3_data(s3_server: S3Server) -> Iterator[str]:
    """A data root on the S3 server with the digits packed, in several shards."""
    root = s3_server.uri("datasets")
    with s3_server.environment():
        pack(Digits(), f"{root}/digits", shard_bytes=200 << 10)
        yield root


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    """Photographs as files, packed, and a committed stage that tells two of them apart."""
    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow's without runs. MLflow takes most of a second to make one."""
    database = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    open_client(f"sqlite:///{database}")
    return database


@pytest.fixture
def place(tmp_path: Path, local_data: str, empty_mlflow: Path) -> list[str]:
    """Arguments that keep a run inside the test's folder."""
    copyfile(empty_mlflow, tmp_path / "mlflow.db")
    return [
        *("--place.data-root", local_data),
        *("--place.storage-root", str(tmp_path / "runs")),
        *("--place.mlflow-uri", f"sqlite:///{tmp_path}/mlflow.db"),
    ]


@pytest.fixture
def may_round() -> Iterator[Callable[[], tuple[bool, bool]]]:
    """Let a GPU round float32 to TF32; the function says of convolutions and products if it may."""
    backends: Any = torch.backends
    parts = (backends.cudnn, backends.cuda.matmul)
    before = [part.allow_tf32 for part in parts]
    try:
        for part in parts:
            part.allow_tf32 = True
        yield lambda: (parts[0].allow_tf32, parts[1].allow_tf32)
    finally:
        for part, value in zip(parts, before, strict=True):
            part.allow_tf32 = value
