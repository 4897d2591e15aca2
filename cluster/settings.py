"""`ray_config.yaml` as a frozen value: the place a recipe runs in, never what it computes.

Two runs that differ only here are expected to reach the same loss curve. Whatever would change the
curve belongs in the recipe. An unknown key or a wrong type is an error that names the file and key.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from cluster.errors import BadPlace

ZeroLevel = Literal[0, 1, 2, 3]
STRICT = ConfigDict(extra="forbid", strict=True)
ON_CPUS = 2
"""Number of workers on CPUs, unless one is given."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many processes train, and what each of them holds."""

    __pydantic_config__ = STRICT

    min: int | None = None
    """Fewest workers to train with; training waits until the cluster has them. If null, `max`."""
    max: int | None = None
    """Most workers to train with. If larger than `min`, the group is resized as nodes come and
    go. If null, one for each GPU of the cluster, or 2 on CPUs."""
    gpus: int | None = None
    """GPUs per worker: 0 trains on CPUs, 1 on GPUs. If null, 1 when the cluster has a GPU for each
    of `min` workers (for one, if that is null), otherwise 0."""
    cpus: float | None = None
    """CPUs per worker. If null, 1 for a worker with a GPU; workers without GPUs share half of the
    cluster's CPUs and leave the other half to Ray Data."""

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= self.most:
            raise BadPlace(f"workers: wanted 1 <= min <= max, found min {self.min}, max {self.max}")
        if self.gpus not in (0, 1, None):
            raise BadPlace(f"workers.gpus: wanted 0, 1 or null per worker, found {self.gpus}")
        if self.cpus is not None and self.cpus <= 0:
            raise BadPlace(f"workers.cpus: wanted more than 0 or null, found {self.cpus}")

    @property
    def most(self) -> int:
        """Most workers: `max`, or while that is null what CPUs would get."""
        return max(self.min or 1, ON_CPUS) if self.max is None else self.max

    @property
    def fewest(self) -> int:
        """Fewest workers: `min`, or while that is null all."""
        return self.most if self.min is None else self.min

    def gpus_of(self, have_gpus: float) -> int:
        """GPUs that a worker holds on a cluster with so many."""
        return int(have_gpus >= (self.min or 1)) if self.gpus is None else self.gpus

    @property
    def gpus_each(self) -> int:
        """GPUs a worker holds, once `cluster.scaling.settle_workers` has looked at the cluster."""
        assert self.gpus is not None, "workers.gpus is still null: the cluster was not looked at"
        return self.gpus


@dataclass(frozen=True, kw_only=True)
class Zero:
    """How DeepSpeed spreads the model states over the workers."""

    __pydantic_config__ = STRICT

    level: ZeroLevel = 1
    """ZeRO level: 0 replicates everything, 1 partitions the optimizer states, 2 also the gradients,
    3 also the weights. Level 1 is the fastest; `pipelines/plan.py` shows when memory requires
    more."""
    offload_optimizer: bool = False
    """Keep optimizer states in host memory and run the optimizer there (levels 1 to 3). Slow: AdamW
    takes about 5 s of a CPU per billion numbers in each step."""

    def __post_init__(self) -> None:
        if self.level not in get_args(ZeroLevel):
            raise BadPlace(f"zero.level: wanted 0, 1, 2 or 3, found {self.level}")
        if self.offload_optimizer and self.level == 0:
            raise BadPlace(
                "zero.offload_optimizer needs zero.level 1, 2 or 3, found 0: "
                "raise the level or switch offloading off"
            )


@dataclass(frozen=True, kw_only=True)
class ShardCache:
    """Shards of datasets in a bucket, kept on each node's disk for later epochs and stages."""

    __pydantic_config__ = STRICT

    folder: str | None = None
    """Absolute path of a folder on a local disk of every node. If null, nothing is cached."""
    gibibytes: float = 100.0
    """Most disk space used per node. If the dataset is larger, parts of it are read again."""

    def __post_init__(self) -> None:
        if self.folder is not None and not Path(self.folder).expanduser().is_absolute():
            raise BadPlace(f"cache.folder: wanted an absolute path, found {self.folder!r}")
        if self.gibibytes <= 0:
            raise BadPlace(f"cache.gibibytes: wanted more than 0, found {self.gibibytes:g}")


@dataclass(frozen=True, kw_only=True)
class Place:
    """The deployment: everything that may change without a result changing beyond rounding."""

    __pydantic_config__ = STRICT

    recipe: str = "digits"
    """Recipe to run if the command line has no --recipe."""
    data_root: str = "data"
    """Location of the packed datasets, one folder each: a directory or s3://bucket/prefix."""
    storage_root: str = "runs"
    """Location of weights and resume states: a directory or s3://bucket/prefix."""
    mlflow_uri: str = "sqlite:///mlflow.db"
    """MLflow tracking server (http://...) or database (sqlite:///file.db)."""
    tensorboard: str | None = None
    """Folder on the driver's machine for TensorBoard event files, with every metric that MLflow
    gets. If null, none are written."""
    workers: Workers = field(default_factory=Workers)
    """Number and size of the training processes."""
    wait_for_nodes: bool = False
    """Start even if the cluster is too small now, because its autoscaler will add nodes. Otherwise
    a cluster without enough room is refused at once."""
    max_micro_batch: int | None = None
    """Most images per worker in one forward pass; gradient accumulation follows from it. If null,
    64 on CPUs. On GPUs the number that the plan says fits, halved for as long as the first steps
    run out of memory, and kept for the whole attempt. Evaluations have a number of their own."""
    recompute_activations: bool = False
    """Keep only the input of each block and recompute the rest in the backward pass. This adds a
    third to the work and saves most of the memory for activations."""
    compile: bool = False
    """Compile the model's blocks with torch.compile: faster on GPUs, after a first step that takes
    a minute or two. It needs a C++ compiler, and zero.level 0 to 2."""
    zero: Zero = field(default_factory=Zero)
    """Partitioning of the model states over the workers."""
    deterministic: bool = False
    """Use only GPU kernels that give the same bits every time, so that an interrupted run ends with
    the same weights as an uninterrupted one. It costs speed, and CPUs do not need it."""
    decode_cpus: float = 0.5
    """CPUs per task that reads and decodes images. With 0.5, two tasks share a CPU: one decodes
    while the other's images are transferred."""
    decode_on_gpu_nodes: bool | None = None
    """Whether nodes with GPUs decode images too. If null, only when no other node has CPUs."""
    cache: ShardCache = field(default_factory=ShardCache)
    """Cache of shards on the nodes' local disks."""
    max_bad_fraction: float = 0.001
    """Largest share of a split's samples that may be damaged. Each damaged sample is replaced by
    another one and named; above this share the stage stops. 0 stops at the first."""
    log_every_steps: int = 10
    """Steps between two reports, or a multiple of it where steps are so fast that a second has not
    passed. A report contains the metrics of every step since the last."""
    save_every_steps: int | None = None
    """Steps between two saves of the resume state; 0 never saves. If null, 100, or a tenth of a
    shorter stage."""
    keep_states: int = 2
    """Number of resume states to keep. If the newest is damaged, the one before it is used."""
    max_failures: int = 3
    """Automatic restarts after a failure; -1 means unlimited. Two in a row that reach no newer step
    without losing a worker are the last."""
    hang_seconds: float = 900.0
    """Seconds without progress after which a worker prints where it hangs and is ended, so that the
    group restarts; 0 waits forever. With `compile` the first step and evaluation have 600 more."""
    verbose: bool = False
    """Show the logs of Ray and DeepSpeed."""

    def __post_init__(self) -> None:
        for name, least in (
            ("max_micro_batch", 1),
            ("log_every_steps", 1),
            ("save_every_steps", 0),
            ("keep_states", 1),
        ):
            found = getattr(self, name)
            if found is not None and found < least:
                raise BadPlace(f"{name}: wanted at least {least}, found {found}")
        if not 0 <= self.max_bad_fraction < 1:
            raise BadPlace(
                f"max_bad_fraction: wanted within [0, 1), found {self.max_bad_fraction:g}"
            )
        if self.compile and self.zero.level == 3:
            raise BadPlace(
                "compile needs zero.level 0, 1 or 2, found 3, which gathers weights inside each"
                " block: lower the level or switch compile off"
            )
        if self.hang_seconds < 0:
            raise BadPlace(f"hang_seconds: wanted at least 0, found {self.hang_seconds:g}")
        if self.decode_cpus <= 0:
            raise BadPlace(f"decode_cpus: wanted more than 0, found {self.decode_cpus}")

    def save_period(self, steps: int) -> int:
        """Steps between two saves in a stage of so many; 0 for no saves."""
        if self.save_every_steps is not None:
            return self.save_every_steps
        return min(100, max(1, steps // 10))


def read_place(path: Path) -> Place:
    """Read `ray_config.yaml`; keys left out keep their default.

    Raises:
        BadPlace: the file is missing, is no YAML mapping, or has an unknown key or a wrong type.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise BadPlace(f"{path}: no such file - give one with --config") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadPlace(f"{path}: cannot be read: {_one_line(error)}") from None
    if values is None:
        return Place()
    if not isinstance(values, dict):
        raise BadPlace(f"{path}: wanted a mapping of settings, found {type(values).__name__}")
    try:
        # by way of JSON: strict about "2" for 2, yet a mapping may become a dataclass
        return TypeAdapter(Place).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise BadPlace(f"{path}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """Say the first thing wrong as `key: what was wanted, what was found`."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "unexpected_keyword_argument":
        return f"{key}: no such setting - see --help for those there are"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return message
    return f"{key}: {message[0].lower()}{message[1:]}, found {first['input']!r}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
