"""A suite: tasks by group, and the protocol that turns each task into fine-tuning stages.

The learning rate is chosen on examples held out of a task's training split; the final runs train on
both parts and are evaluated on the test split, which nothing was chosen on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from pipelines.recipes.data import Data
from pipelines.recipes.errors import Mistake
from pipelines.recipes.stage import Stage
from storage.selection import Selection
from vit import OptimConfig, ViTConfig

Group = Literal["natural", "specialised", "structured"]
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One classification task."""

    name: str
    group: Group
    dataset: str
    """Folder of the packed dataset under `place.data_root`."""
    num_classes: int
    classes: tuple[int, ...] | None = None
    """Only these classes of the dataset."""
    labels: tuple[int, ...] | None = None
    """Label of each of those classes, where several become one."""
    flip: bool = True
    """Mirror half of the images. Off for tasks whose label depends on left and right."""

    def __post_init__(self) -> None:
        chosen = Selection(classes=self.classes, labels=self.labels)
        if chosen.num_classes(self.num_classes) != self.num_classes:
            raise Mistake(
                f"task {self.name}: num_classes {self.num_classes}, but classes and labels leave"
                f" {chosen.num_classes(self.num_classes)}"
            )


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Tasks, and the protocol that is the same for all of them."""

    name: str
    tasks: tuple[Task, ...]
    source: str
    """Where the protocol is from."""
    image_size: int | None = None
    """Resolution of all tasks, rounded up to whole patches; that of the weights by default."""
    train_samples: int = 800
    """Training examples of the sweep."""
    held_out_samples: int = 200
    """Held-out examples that judge the sweep; the final trainings use both."""
    sweep: tuple[float, ...]
    """Peak learning rates to choose from; a single one needs no choice."""
    optim: OptimConfig
    """The rest of the optimiser."""
    steps: int
    global_batch: int
    seeds: int
    """Final trainings per task, which give the spread."""
    data: Data
    """How images are cut; a task's selection goes into it."""

    def __post_init__(self) -> None:
        names = [task.name for task in self.tasks]
        assert len(set(names)) == len(names), f"{self.name}: two tasks of one name"
        for name in ("train_samples", "held_out_samples", "seeds"):
            if getattr(self, name) < 1:
                raise Mistake(f"{name}: wanted at least 1, found {getattr(self, name)}")
        if not self.sweep or len(set(self.sweep)) != len(self.sweep):
            raise Mistake(f"sweep {self.sweep}: wanted one or more different learning rates")


def sweep_stages(suite: Suite, task: Task, start: Stage) -> dict[float, Stage]:
    """Make a stage per learning rate, evaluated on held-out examples; empty for a single rate.

    Args:
        suite: the protocol.
        task: what to learn.
        start: where the weights come from: a stage with `parent`, `init` or neither.
    """
    if len(suite.sweep) == 1:
        return {}
    kept = Selection(classes=task.classes, labels=task.labels, samples=suite.train_samples)
    held_out = replace(kept, samples=suite.held_out_samples, skip=suite.train_samples)
    data = replace(suite.data, val_split=suite.data.train_split, val_selection=held_out)
    return {
        rate: _stage(suite, task, start, f"{task.name}-lr{rate:g}", rate, kept, data)
        for rate in suite.sweep
    }


def final_stages(suite: Suite, task: Task, start: Stage, rate: float) -> tuple[Stage, ...]:
    """Make a stage per seed, trained on both parts and evaluated on the test split."""
    every = suite.train_samples + suite.held_out_samples
    both = Selection(classes=task.classes, labels=task.labels, samples=every)
    stage = _stage(suite, task, start, task.name, rate, both, suite.data)
    return tuple(
        replace(stage, name=f"{task.name}-s{seed}", seed=seed) for seed in range(suite.seeds)
    )


def _stage(
    suite: Suite, task: Task, start: Stage, name: str, rate: float, kept: Selection, data: Data
) -> Stage:
    model = replace(start.model, num_classes=task.num_classes, head_bias_init=0.0)
    size = suite.image_size or start.image_size
    if isinstance(model, ViTConfig):
        size = -(-size // model.patch_pixels) * model.patch_pixels
        model = replace(model, head="linear", dropout=0.0)
    model = replace(model, image_size=size)
    return replace(
        start,
        name=name,
        reset_head=True,
        model=model,
        data=replace(data, dataset=task.dataset, selection=kept, flip=data.flip and task.flip),
        optim=replace(suite.optim, peak_lr=rate),
        loss="softmax",
        label_smoothing=0.0,
        global_batch=suite.global_batch,
        steps=suite.steps,
        eval_every_steps=0,
        seed=0,
    )


def best_rate(accuracy: Mapping[float, float]) -> float:
    """Return the learning rate with the highest held-out accuracy; the smallest if tied."""
    return max(sorted(accuracy), key=lambda rate: accuracy[rate])
