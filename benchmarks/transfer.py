#!/usr/bin/env -S python3 -P
"""Does pre-training help? Fine-tune from the demo's weights and from scratch, on the same budget.

    make demo && .venv/bin/python benchmarks/transfer.py

Both starts get the same model, images, steps, schedule and sweep of optimizer and learning rate;
each is reported at its own best. One process, no Ray: the order and the numbers are those of
`pipelines/finetune.py`, which does not depend on the number of workers.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cluster.settings import Place
from pipelines.lineage.attempts import committed_attempts
from pipelines.lineage.source import open_source
from pipelines.recipes.digits import FINETUNE
from pipelines.recipes.objectives import stage_objective
from pipelines.recipes.stage import Stage
from pipelines.recipes.streams import train_spec, val_spec
from storage.blocks import eval_batches, train_batch
from storage.dataset import load_dataset
from vit import (
    build_model,
    build_optimizer,
    lr_at,
    normalize,
    param_groups,
    set_lr,
)

SWEEP = [("sgd", lr) for lr in (0.01, 0.03, 0.1)] + [("adamw", lr) for lr in (3e-4, 1e-3, 3e-3)]


def accuracy_after(stage: Stage, dataset_uri: str, start: str | None) -> float:
    """Validation accuracy at the end of the stage, trained by a plain torch loop."""
    model = build_model(stage.model, seed=stage.seed)
    if start:
        with open_source(start) as source:
            model.load_state_dict(source.start_weights(stage)[0])
    optimizer = build_optimizer(param_groups(model, stage.optim), stage.optim)
    objective = stage_objective(stage)
    for step in range(stage.steps):
        batch = train_batch(train_spec(stage, dataset_uri), step)
        rows = {name: torch.from_numpy(column) for name, column in batch.items()}
        asked = objective.ask(normalize(rows["image"]), rows, None, training=True)
        set_lr(optimizer.param_groups, lr_at(step, stage.steps, stage.optim))
        optimizer.zero_grad()
        objective.loss(model(asked.images), asked.targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), stage.optim.clip_norm)
        optimizer.step()
    correct = []
    with torch.no_grad():
        for batch in eval_batches(val_spec(stage, dataset_uri)):
            answers = model(normalize(torch.from_numpy(batch["image"]))).argmax(dim=1).numpy()
            correct.append(answers == batch["label"])
    return float(np.concatenate(correct).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    place = Place()
    parents = committed_attempts(place.storage_root, arguments.run, "upscale")
    if not parents:
        raise SystemExit(f"no committed upscale in run {arguments.run!r} - run: make demo")
    dataset = load_dataset(str(Path(place.data_root) / FINETUNE.data.dataset)).uri
    print(f"{FINETUNE.steps} steps of {FINETUNE.global_batch}, seeds 0..{arguments.seeds - 1}")
    print("optimizer      lr   pre-trained          from scratch")
    for name, rate in SWEEP:
        stage = replace(FINETUNE, optim=replace(FINETUNE.optim, name=name, peak_lr=rate))
        row = []
        for start in (parents[0].uri, None):
            accuracies = [
                accuracy_after(replace(stage, seed=seed), dataset, start)
                for seed in range(arguments.seeds)
            ]
            row.append(f"{statistics.mean(accuracies):.4f} +- {statistics.pstdev(accuracies):.4f}")
        print(f"{name:9} {rate:7g}   {row[0]:18}   {row[1]}", flush=True)


if __name__ == "__main__":
    main()
