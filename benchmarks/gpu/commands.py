"""The project's own commands as a GPU owner types them, and the stream that feeds a card."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.gpu.bench import Bench

ROOT = Path(__file__).parents[2]
ONE = ("--place.workers.min", "1", "--place.workers.max", "1")
SHORT = (
    *("--stage.steps", "8", "--stage.optim.warmup-steps", "0"),
    *("--stage.optim.cooldown-steps", "0", "--stage.eval-every-steps", "0"),
)


def stage(bench: Bench) -> None:
    """Train on the CPU beside a GPU, on the GPU in both precisions, evaluate."""
    _pack_digits(bench, "stage")
    cases = [("cpu", ("--place.workers.gpus", "0"))]
    if bench.gpu:
        gpu = ("--place.workers.gpus", "1")
        cases += [(p, (*gpu, "--stage.precision", p)) for p in ("float32", "bfloat16")]
    for name, options in cases:
        code = run_script(
            bench, "pretrain.py", "--run", name, *_place(bench), *ONE, *options, *SHORT
        )
        bench.report.check(f"stage {name}", code == 0, f"pretrain.py exits {code}")
    code = run_script(bench, "evaluate.py", "--run", "cpu", "--only", "pretrain", *_place(bench))
    bench.report.check("stage evaluate", code == 0, f"evaluate.py exits {code}")


def modes(bench: Bench) -> None:
    """Pre-train without labels, then fine-tune low-rank adapters from what that committed."""
    _pack_digits(bench, "modes")
    place = (*_place(bench), *ONE, "--place.workers.gpus", str(int(bench.gpu)))
    code = run_script(
        bench, "pretrain.py", "--recipe", "digits-mae", "--run", "modes", *place, *SHORT
    )
    bench.report.check("modes mae", code == 0, f"pretrain.py exits {code}")
    code = run_script(
        *(bench, "finetune.py", "--recipe", "digits-mae", "--run", "modes", *place, *SHORT),
        *("--stage.train", "lora 4"),
    )
    bench.report.check("modes lora", code == 0, f"finetune.py exits {code}")


def killed(bench: Bench) -> None:
    """SIGKILL of the worker in the middle; the same command goes on from its last save."""
    device = ("--place.workers.gpus", str(int(bench.gpu)))
    _pack_digits(bench, "killed")
    arguments = ("pretrain.py", "--run", "killed", *_place(bench), *ONE, *device)
    arguments += ("--stage.steps", "200" if bench.tiny else "1500")
    arguments += ("--place.save-every-steps", "20", "--stage.eval-every-steps", "0")
    job = subprocess.Popen(
        _words(*arguments),
        env=_env(bench),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    states = bench.folder / "runs/killed/pretrain"
    saved = _wait(
        lambda: job.poll() is not None or any(states.glob("*/resume/*/manifest.json")), 180
    )
    if not saved or job.poll() is not None:
        job.kill()
        said, _ = job.communicate()
        bench.report.check("killed", False, f"no resume state: {said[-200:]}")
        return
    worker = next(
        (p for p in psutil.Process(job.pid).children(recursive=True) if "TrainWorker" in p.name()),
        None,
    )
    if worker is not None:
        worker.send_signal(signal.SIGKILL)
    said, _ = job.communicate(timeout=600)
    resumed = [line for line in said.splitlines() if "resumed after step" in line]
    bench.report.check(
        "killed",
        worker is not None and job.returncode == 0 and bool(resumed),
        resumed[-1] if resumed else f"exits {job.returncode}, no resume: {said[-200:]}",
    )


def stream(bench: Bench) -> None:
    """Images per second of the stream and of the decoder alone, on this machine's cores."""
    if bench.tiny:
        bench.report.figure("stream", "not run with --tiny: it needs photographs")
        return
    cpus = str(max(1, (os.cpu_count() or 2) - 2))
    words = ("--only", "stream", "limit", "--cpus", cpus, "--batch", "256")
    command = [sys.executable, "-m", "benchmarks.ingest", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    for line in done.stdout.strip().splitlines():
        bench.report.figure("stream", line)
    bench.report.check("stream", done.returncode == 0, done.stderr[-300:])


def _pack_digits(bench: Bench, part: str) -> None:
    code = run_script(bench, "pack.py", "digits", "--out", str(bench.folder / "data/digits"))
    bench.report.check(f"{part} data", code == 0, f"pack.py digits exits {code}")


def _place(bench: Bench) -> tuple[str, ...]:
    folder = bench.folder
    return (
        *("--place.data-root", f"{folder}/data", "--place.storage-root", f"{folder}/runs"),
        *("--place.mlflow-uri", f"sqlite:///{folder}/mlflow.db"),
    )


def _words(script: str, *arguments: str) -> list[str]:
    return [sys.executable, "-P", str(ROOT / "pipelines" / script), *arguments]


def run_script(bench: Bench, script: str, *arguments: str) -> int:
    """Run a script; show what it said if it failed, and its seconds."""
    began = time.perf_counter()
    done = subprocess.run(
        _words(script, *arguments), env=_env(bench), capture_output=True, text=True, timeout=600
    )
    print(f"---- {script}: {time.perf_counter() - began:.0f} s", flush=True)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
    return done.returncode


def _env(bench: Bench) -> dict[str, str]:
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HOME": str(bench.folder)}


def _wait(ready: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if ready():
            return True
        time.sleep(0.5)
    return False
