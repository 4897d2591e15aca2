"""What can befall a running stage: each fault is real, and hits only this Ray's processes."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import ray

from pipelines.lineage.manifest import Manifest, read_manifest
from pipelines.lineage.newest_state import newest_state

TRAINER, DECODER = "RayTrainWorker", "ReadRange"
PATIENCE_SECONDS = 240


@dataclass
class Stage:
    """A stage that runs as a job of its own, and is started again when it is gone."""

    command: list[str]
    env: dict[str, str]
    attempts: Path
    """The folder that the attempt appears in."""
    session: str
    """Folder of the Ray session."""
    log: Path
    job: subprocess.Popen[bytes] | None = None
    jobs: int = 0
    faults: list[str] = field(default_factory=list)

    @classmethod
    def pretraining(
        cls, run: str, options: list[str], address: str, folder: Path, *, session: str | None = None
    ) -> "Stage":
        """Pre-training in a run whose `runs` lie in the test's folder.

        Args:
            run: its name.
            options: of pretrain.py.
            address: of a Ray.
            folder: of the test.
            session: folder of the Ray session; None: that of this process's Ray.
        """
        here = ray._private.worker._global_node  # type: ignore[attr-defined]
        return cls(
            command=["pipelines/pretrain.py", "--run", run, *options],
            env={"RAY_ADDRESS": address},
            attempts=folder / "runs" / run / "pretrain",
            session=session or here.get_session_dir_path(),
            log=folder / f"{run}.log",
        )

    def start(self) -> None:
        """Submit it (again)."""
        self.jobs += 1
        with self.log.open("ab") as log:
            self.job = subprocess.Popen(
                [sys.executable, "-P", *self.command],
                env={**os.environ, **self.env},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def folder(self) -> Path:
        """The attempt, once it is there."""
        (folder,) = self.attempts.iterdir()
        return folder

    @property
    def ended(self) -> int | None:
        """Exit code, or None while it runs."""
        assert self.job is not None
        return self.job.poll()

    def finish(self) -> None:
        """Wait until the job has ended by itself."""
        self.wait("its end", lambda: False, seconds=1200)

    def saved(self) -> int:
        """Steps in the newest state."""
        with suppress(ValueError, FileNotFoundError):
            state = newest_state(str(self.folder))
            return state.step if state else 0
        return 0

    def committed(self) -> Manifest:
        """What it committed, once it ended well."""
        assert self.ended == 0, self.log.read_text()[-3000:]
        manifest = read_manifest(str(self.folder))
        assert manifest is not None
        return manifest

    def wait(
        self, what: str, until: Callable[[], object], *, seconds: float = PATIENCE_SECONDS
    ) -> None:
        """Until something is so, or it ended."""
        deadline = time.monotonic() + seconds
        while not until():
            if self.ended is not None:
                return
            assert time.monotonic() < deadline, f"{what}: not in {seconds} s"
            time.sleep(0.01)

    def processes(self, *titles: str) -> list[psutil.Process]:
        """Ray's processes of this session whose title has one of these words, by process id."""
        return processes(self.session, *titles)


def processes(session: str, *titles: str) -> list[psutil.Process]:
    """Processes of a Ray session whose title has one of these words, by process id."""
    return sorted(
        (one for one in _raylets_children(session) if any(t in _title(one) for t in titles)),
        key=lambda process: process.pid,
    )


def _raylets_children(session: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() == "raylet" and session in " ".join(process.cmdline()):
                yield from process.children(recursive=True)


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def kill_one(stage: Stage, draw: random.Random, *titles: str) -> str | None:
    """SIGKILL to a process of that kind; None where there is none."""
    found = stage.processes(*titles)
    if not found:
        return None
    victim = draw.choice(found)
    with suppress(psutil.Error):
        victim.kill()
        return f"{found.index(victim)} of {len(found)}"
    return None


def kill_trainer(stage: Stage, draw: random.Random) -> str | None:
    """A worker process dies in the middle of a step."""
    return kill_one(stage, draw, TRAINER)


def kill_all_trainers(stage: Stage, draw: random.Random) -> str | None:
    """All workers die at once."""
    found = stage.processes(TRAINER)
    for process in found:
        with suppress(psutil.Error):
            process.kill()
    return f"all {len(found)}" if found else None


def kill_decoder(stage: Stage, draw: random.Random) -> str | None:
    """A process that reads and decodes dies."""
    return kill_one(stage, draw, DECODER, "ray::IDLE")


def kill_in_save(stage: Stage, draw: random.Random) -> str | None:
    """A worker dies when some parts of a state lie there, and no manifest does."""
    before = stage.saved()

    def half_written() -> bool:
        return any(
            not (folder / "manifest.json").exists() and any(folder.glob("*-of-*"))
            for folder in (stage.folder / "resume").glob("step-*")
            if int(folder.name.removeprefix("step-")) > before
        )

    stage.wait("a state half written", half_written)
    return kill_one(stage, draw, TRAINER)


def kill_in_upload(stage: Stage, draw: random.Random) -> str | None:
    """A worker dies while the bytes of a part are being copied."""
    stage.wait("a copy", lambda: any(_temporary(stage.folder / "resume")))
    return kill_one(stage, draw, TRAINER)


def _temporary(folder: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError):
        yield from folder.glob("step-*/.tmp*")
        yield from folder.glob("step-*/.partial*")


def damage_newest_state(stage: Stage, draw: random.Random) -> str | None:
    """A byte of the newest state flips, and a worker dies: the state before it must do."""
    with suppress(FileNotFoundError):
        folder = stage.folder / "resume" / f"step-{stage.saved():08d}"
        part = draw.choice(sorted(folder.glob("*.safetensors")))
        data = bytearray(part.read_bytes())
        data[draw.randrange(len(data))] ^= 0xFF
        replacement = part.with_name("damaged")  # as another file: the old one may be mapped
        replacement.write_bytes(bytes(data))
        replacement.replace(part)
        return kill_one(stage, draw, TRAINER)
    return None


def uploading_weights(stage: Stage) -> bool:
    """Whether weights lie there, or a part of them."""
    return any(stage.folder.glob("*weights*.safetensors*"))


def committed(stage: Stage) -> bool:
    """Whether the stage's weights are committed."""
    return (stage.folder / "manifest.json").exists()


def states_dropped(stage: Stage) -> bool:
    """Whether the driver is past the training's end: the resume states of the attempt go."""
    return committed(stage) and not any((stage.folder / "resume").glob("*/manifest.json"))


def kill_trainer_at_the_commit(folder: Path, session: str, killed: list[int]) -> None:
    """Wait for an attempt's manifest, and kill a worker within milliseconds; note its process."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    victims: list[psutil.Process] = []
    for look in itertools.count():
        if (folder / "manifest.json").exists():
            break
        assert time.monotonic() < deadline, f"{folder} was not committed"
        if look % 500 == 0 or not victims:  # ahead: it takes longer than the rest
            victims = processes(session, TRAINER)
        time.sleep(0.001)
    with suppress(psutil.Error):
        victims[0].kill()
        killed.append(victims[0].pid)


def freeze_trainer(stage: Stage, draw: random.Random) -> str | None:
    """A worker stands still: it dies of nothing, it says nothing."""
    found = stage.processes(TRAINER)
    if not found:
        return None
    victim = draw.choice(found)
    with suppress(psutil.Error):
        victim.suspend()
        return f"{found.index(victim)} of {len(found)}"
    return None


def _end_job(stage: Stage, number: signal.Signals) -> str:
    assert stage.job is not None
    stage.job.send_signal(number)
    stage.job.wait(120)
    stage.start()
    return "submitted again"


def stop_job(stage: Stage, draw: random.Random) -> str | None:
    """`ray job stop`; the user submits it again."""
    return _end_job(stage, signal.SIGTERM)


def kill_job(stage: Stage, draw: random.Random) -> str | None:
    """The driver is killed; the user submits it again."""
    return _end_job(stage, signal.SIGKILL)


FAULTS = (
    kill_trainer,
    kill_all_trainers,
    kill_decoder,
    kill_in_save,
    kill_in_upload,
    damage_newest_state,
    freeze_trainer,
    stop_job,
    kill_job,
)
