"""pretrain.py itself on photographs: what of a card's speed is left when the stream feeds it."""

import statistics
from collections.abc import Iterator
from pathlib import Path

from mlflow.tracking import MlflowClient

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.commands import run_script
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
    dataset = bench.photographs or _photographs(bench.folder / "photographs")
    classes = str(len(load_dataset(str(dataset)).classes))
    for size in ("s",) if bench.tiny else [each for each in bench.sizes if each in RECIPES]:
        for compiled in (False, True):
            name = f"fed {size}{' compiled' if compiled else ''}"
            database = bench.folder / f"{name.replace(' ', '-')}.db"
            code = run_script(
                bench,
                *("pretrain.py", "--recipe", RECIPES[size], "--run", name.replace(" ", "-")),
                *("--place.data-root", str(dataset.parent), "--stage.data.dataset", dataset.name),
                *("--stage.data.tail", "carry", "--stage.model.num-classes", classes),
                *("--stage.global-batch", "8" if bench.tiny else "1024"),
                *("--stage.steps", "4" if bench.tiny else "60", "--stage.eval-every-steps", "0"),
                *("--stage.optim.warmup-steps", "0", "--place.storage-root", str(bench.folder)),
                *("--place.log-every-steps", "1", "--place.mlflow-uri", f"sqlite:///{database}"),
                *("--place.workers.gpus", str(int(bench.gpu)), "--place.workers.min", "1"),
                *("--place.workers.max", "1", *(("--place.compile",) if compiled else ())),
            )
            said = ", ".join(_told(database)) if code == 0 else f"pretrain.py exits {code}"
            bench.report.check(name, code == 0, said)


def _photographs(folder: Path) -> Path:
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
