"""Checks of this machine: packages, environment, devices, collectives, disk, memory."""

import os
import shutil
import sys
import tempfile
from dataclasses import replace
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from packaging.requirements import Requirement

from cluster.engine import cuda_trouble
from pipelines.checks.finding import Finding, fail, ok, warn
from pipelines.cli.options import Command
from pipelines.planning.estimate import estimate
from pipelines.planning.hardware import NodeKind, find_node_kind
from pipelines.planning.images import Images
from pipelines.planning.memory import GIB
from storage.jpeg_part import turbojpeg
from storage.uri import parse

PROJECT = "vit-on-ray"
# They disable the protection against pickled code in data.
_UNSAFE = ("RAY_DATA_WEBDATASET_ALLOW_UNSAFE_DESERIALIZATION", "RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE")
_NO_IMAGES = Images(train=1, val=0, mean_bytes=1.0, run_samples=1, source="")


def check_versions(command: Command) -> Finding:
    """Check that the installed packages are those that `pyproject.toml` requires."""
    name = "versions"
    do = "pip install --constraint constraints.txt --editable ."
    try:
        wanted = [Requirement(line) for line in requires(PROJECT) or ()]
    except PackageNotFoundError:
        return warn(
            name, f"{PROJECT} is not installed, so package versions cannot be checked - {do}"
        )
    wrong, installed = [], []
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name}{requirement.specifier} is missing")
            continue
        if not requirement.specifier.contains(have, prereleases=True):
            wrong.append(f"{requirement.name} {have} is not {requirement.specifier}")
        installed.append(f"{requirement.name} {have}")
    if wrong:
        return fail(name, f"{'; '.join(wrong)} - {do}")
    shown = [
        line for line in installed if line.split()[0] in ("torch", "ray", "deepspeed", "mlflow")
    ]
    return ok(name, f"Python {sys.version.split()[0]}, {', '.join(shown)}")


def check_environment(command: Command) -> Finding:
    """Check for environment variables that let data run code."""
    name = "environment"
    opened = [variable for variable in _UNSAFE if os.environ.get(variable)]
    if opened:
        return fail(name, f"{', '.join(opened)} lets data run code - unset it")
    return ok(name, "no variable that lets data run code")


def gpus_here() -> int:
    """Return the number of GPUs on this machine that torch can use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def on_gpus(command: Command) -> bool:
    """Return whether workers would use GPUs; null `workers.gpus` is decided by this machine."""
    workers = command.place.workers
    if workers.gpus is None and os.environ.get("RAY_ADDRESS"):
        return False
    return workers.gpus_of(gpus_here()) > 0


def check_devices(command: Command) -> Finding:
    """Check the GPUs of this machine, if workers are to use any."""
    name, workers = "devices", command.place.workers
    count = gpus_here()
    if workers.gpus is None and os.environ.get("RAY_ADDRESS"):
        return ok(name, "workers.gpus is null: workers use GPUs if the cluster has any")
    if not on_gpus(command):
        why = "workers.gpus 0" if workers.gpus == 0 else f"fewer than workers.min {workers.min}"
        spare = f"; its {count} GPUs stay idle ({why})" if count else ""
        text = f"{os.cpu_count()} CPUs{spare}"
        return warn(name, text) if count else ok(name, text)
    if not count and os.environ.get("RAY_ADDRESS"):
        return ok(name, "no GPU here; the Ray check counts those of the cluster")
    if not count:
        reason = cuda_trouble() or "it finds no GPU"
        return fail(
            name,
            f"workers.gpus is 1, but torch can use no GPU: {reason} - set it to 0, or fix that",
        )
    if any(stage.precision == "bfloat16" for stage in command.stages):
        major, minor = torch.cuda.get_device_capability(0)
        if major < 8:
            return fail(
                name, f"the GPU (sm_{major}{minor}) has no bfloat16 - set --stage.precision float32"
            )
    return ok(name, f"{count} x {torch.cuda.get_device_name(0)}")


def check_decoder(command: Command) -> Finding:
    """Say whether this machine decodes only the part of a JPEG that a crop needs."""
    library = turbojpeg()
    if library is not None:
        return ok("decoder", f"of JPEGs only what a crop needs, with {library.path}")
    return ok(
        "decoder", "whole JPEGs; with libturbojpeg 3 a crop takes a fifth less (docs/stream.md)"
    )


def check_collectives(command: Command) -> Finding:
    """Check that workers can communicate: gloo must start; for GPUs torch must have NCCL."""
    name = "collectives"
    try:
        store = dist.HashStore()  # type: ignore[attr-defined]  # not in its __all__
        group: Any = dist.ProcessGroupGloo(store, 0, 1, timedelta(seconds=5))
        group.barrier().wait()
    except RuntimeError as error:
        return fail(name, f"gloo does not start: {error} - set GLOO_SOCKET_IFNAME to an interface")
    if on_gpus(command) and not dist.is_nccl_available():
        return fail(name, "this torch has no NCCL - install a CUDA build of torch")
    return ok(name, "gloo and NCCL" if on_gpus(command) else "gloo")


def check_disk(command: Command) -> Finding:
    """Check for disk space for resume states, weights, and the temporary copy while writing."""
    name, place = "disk", command.place
    kind = find_node_kind("laptop")
    states = [
        estimate(stage, place, kind, _NO_IMAGES).state_bytes
        for stage in command.stages
        if stage.steps
    ]
    largest = max(states, default=0)
    needed: dict[Path, int] = {Path(tempfile.gettempdir()): largest}
    root = parse(place.storage_root)
    if root.bucket is None:  # a new state is written before the old one is deleted
        folder = _existing(Path(root.path))
        needed[folder] = needed.get(folder, 0) + 2 * largest + sum(states) // 3
    for folder, wanted in needed.items():
        free = shutil.disk_usage(folder).free
        if free < wanted:
            return fail(
                name,
                f"{folder} has {free / GIB:.1f} GiB free, {wanted / GIB:.1f} are needed - free"
                " space, or set TMPDIR or --place.storage-root to another disk",
            )
    rooms = ", ".join(
        f"{shutil.disk_usage(folder).free / GIB:.0f} GiB free in {folder}" for folder in needed
    )
    return ok(name, f"{rooms}; at most {max(needed.values()) / GIB:.1f} needed")


def check_memory(command: Command) -> Finding:
    """Compare the estimated memory per worker with what this machine has."""
    name, place = "memory", command.place
    kind = hardware_here(command)
    if kind is None:
        return ok(name, "the GPUs are elsewhere: check with pipelines/plan.py --on KIND")
    room = 0.0
    for stage in command.stages:
        needed = estimate(stage, place, kind, _NO_IMAGES)
        room = needed.limit_bytes / GIB
        line = next((memory for memory in needed.memory if memory.level == place.zero.level), None)
        if line is None:
            return fail(name, f"stage {stage.name}: bfloat16 needs --place.zero.level 1, 2 or 3")
        if not line.fits:
            return fail(
                name,
                f"stage {stage.name} needs {line.peak / GIB:.1f} GiB per worker, there are"
                f" {room:.1f} - set --place.max-micro-batch"
                f" {line.largest_micro_batch}, or see pipelines/plan.py"
                if line.largest_micro_batch
                else f"stage {stage.name} does not fit at --place.zero.level {line.level}"
                " even with one image - see pipelines/plan.py",
            )
    return ok(name, f"all stages fit into {room:.1f} GiB per worker")


def hardware_here(command: Command) -> NodeKind | None:
    """Describe this machine as a node; None if workers use GPUs and it has none."""
    laptop = find_node_kind("laptop")
    cpus = os.cpu_count() or 1
    if not on_gpus(command):
        memory = psutil.virtual_memory().total / GIB
        return replace(laptop, memory_gibibytes=memory, cpus=cpus)
    if not torch.cuda.is_available():
        return None
    memory = torch.cuda.get_device_properties(0).total_memory / GIB
    count = torch.cuda.device_count()
    return replace(find_node_kind("h200"), gpus=count, memory_gibibytes=memory, cpus=cpus)


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest existing parent."""
    while not folder.exists():
        folder = folder.parent
    return folder
