"""pretrain.py itself on photographs: fed by the stream, and on a card that others use as well."""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch
from mlflow.tracking import MlflowClient

from benchmarks.gpu.bench import GIB, Bench
from benchmarks.gpu.commands import run_script
from benchmarks.memory import predicted
from benchmarks.photographs import write_shards
from storage.dataset import load_dataset
from storage.pack.tars import index_tars

RECIPES = {"s": "vit-s16-baseline", "b": "vit-b16-imagenet1k", "l": "vit-l16-imagenet1k"}
METRICS = {
    "train/images_per_second": "{:.0f} img/s",
    "train/mfu": "MFU {:.1%}",
    "train/data_wait_fraction": "waiting for data {:.2%}",
}
WARM = 2
"""Reports that are not counted: beside them the decoders start and kernels are chosen."""


def fed(bench: Bench) -> None:
    """Train S, B and L as their recipes do, eager and compiled; print what MLflow has of it."""
    for size in ("s",) if bench.tiny else [each for each in bench.sizes if each in RECIPES]:
        for compiled in (False, True):
            name = f"fed {size}{' compiled' if compiled else ''}"
            words = ("--stage.steps", "4" if bench.tiny else "60")
            batch = 8 if bench.tiny else 1024
            code = _pretrain(bench, name, size, batch, *words, *(["--place.compile"] * compiled))
            told = f"pretrain.py exits {code}" if code else ", ".join(_told(_database(bench, name)))
            bench.report.check(name, code == 0, told)


def crowded(bench: Bench) -> None:
    """B/16 where another process holds memory that the plan counts on: halved, and trained."""
    if not bench.gpu:
        bench.report.figure("crowded", "not run: a CPU has no micro-batch of the plan's")
        return
    free, total = torch.cuda.mem_get_info(bench.device)
    batch = 256
    while _needed(2 * batch) < 0.8 * total:
        batch *= 2
    held = torch.empty(int(free - 0.7 * _needed(batch)), dtype=torch.uint8, device=bench.device)
    code = _pretrain(bench, "crowded", "b", batch, "--stage.steps", "3")
    found = [json.loads(f.read_text()) for f in bench.folder.glob("crowded/**/micro_batch.json")]
    halved = bool(found) and bool(found[0]["too_large"])
    text = f"{held.nbytes / GIB:.1f} of {total / GIB:.1f} GiB held, batch {batch}: {found}"
    bench.report.check("crowded", code == 0 and halved, f"pretrain.py exits {code}; {text}")


def _needed(batch: int) -> int:
    """Bytes that the plan expects of B/16 with a micro-batch of so many images."""
    return predicted("b", 1, batch, workers=1, accumulation=1, dtype="bfloat16", gpu=True)


def _pretrain(bench: Bench, name: str, size: str, batch: int, *words: str) -> int:
    """Run a size's recipe on photographs, on one worker; return the exit status."""
    dataset = bench.photographs or _photographs(bench.folder / "photographs")
    classes = str(len(load_dataset(str(dataset)).classes))
    return run_script(
        bench,
        *("pretrain.py", "--recipe", RECIPES[size], "--run", name.replace(" ", "-")),
        *("--place.data-root", str(dataset.parent), "--stage.data.dataset", dataset.name),
        *("--stage.data.tail", "carry", "--stage.model.num-classes", classes),
        *("--stage.global-batch", str(batch), "--stage.eval-every-steps", "0"),
        *("--stage.optim.warmup-steps", "0", "--place.storage-root", str(bench.folder)),
        *("--place.log-every-steps", "1"),
        *("--place.mlflow-uri", f"sqlite:///{_database(bench, name)}"),
        *("--place.workers.gpus", str(int(bench.gpu)), "--place.workers.min", "1"),
        *("--place.workers.max", "1", *words),
    )


def _database(bench: Bench, name: str) -> Path:
    return bench.folder / f"{name.replace(' ', '-')}.db"


def _photographs(folder: Path) -> Path:
    if folder.exists():
        return folder
    folder.mkdir()
    write_shards(folder, images=512)
    (folder / "train-000003.tar").rename(folder / "val-000000.tar")
    index_tars(str(folder), {"train": ["train-*.tar"], "val": ["val-*.tar"]})
    return folder


def _told(database: Path) -> Iterator[str]:
    """The median of each metric over a run's reports."""
    client = MlflowClient(f"sqlite:///{database}")
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = client.search_runs(experiments)
    for key, form in METRICS.items():
        for run in runs:
            values = [each.value for each in client.get_metric_history(run.info.run_id, key)]
            if values:
                yield form.format(statistics.median(values[WARM:] or values))
                break
