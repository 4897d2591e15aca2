"""Ray for a script: the running cluster where there is one, else a local one; quiet by default."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a FutureWarning
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")  # a spot GPU takes minutes
os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "1800")  # the default waits for ever

import ray  # reads the environment above
import ray.data

WORKER_ENV = {
    "PYTHONSAFEPATH": "1",  # `pipelines/` must not come first on sys.path
    "WDS_SECURE": "1",  # no shell from `pipe:` URLs
}


@contextlib.contextmanager
def ray_session(*, verbose: bool, num_cpus: int | None = None) -> Iterator[None]:
    """Connect to RAY_ADDRESS or a running cluster, or start one for as long as the block lasts.

    A Ray that this process is connected to already is used and left as it is. `num_cpus` makes a
    local one pretend to that many.
    """
    if ray.is_initialized():
        yield
        return
    level = logging.INFO if verbose else logging.ERROR
    if not verbose:
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    ray.init(
        num_cpus=num_cpus,
        logging_level=level,
        log_to_driver=verbose,
        runtime_env={"env_vars": WORKER_ENV},
    )
    for name in ("ray", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(level)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = verbose
    context.print_on_execution_start = verbose
    try:
        yield
    finally:
        ray.shutdown()
