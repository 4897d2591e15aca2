"""Ray for a script: the cluster that RAY_ADDRESS names, else a local one; quiet by default.

A job that was submitted has RAY_ADDRESS. Without it Ray would connect to whatever was started on
this machine last, be it somebody else's or long dead.
"""

import contextlib
import logging
import os
import socket
import warnings
from collections.abc import Iterator

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a FutureWarning
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
# A local Ray ends idle processes after a second; the next stream would import everything again.
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
# A worker's report waits until the one before it was fetched; by default that is every two seconds.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "1800")  # the default waits for ever
# A warning of tasks of half a CPU, which are meant: on few cores every stage brings it.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "PYTHON worker processes have been started")

import ray  # reads the environment above
import ray.data

from cluster.errors import BadPlace

REACH_SECONDS = 5.0
WORKER_ENV = {
    "PYTHONSAFEPATH": "1",  # `pipelines/` must not come first on sys.path
    "WDS_SECURE": "1",  # no shell from `pipe:` URLs
}


@contextlib.contextmanager
def ray_session(*, verbose: bool, num_cpus: int | None = None) -> Iterator[None]:
    """Connect to RAY_ADDRESS, or start a local Ray for as long as the block lasts.

    A Ray that this process is connected to already is used and left as it is. `num_cpus` makes a
    local one pretend to that many.

    Raises:
        BadPlace: nothing answers at RAY_ADDRESS.
    """
    if ray.is_initialized():
        yield
        return
    level = logging.INFO if verbose else logging.ERROR
    if not verbose:
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    address = os.environ.get("RAY_ADDRESS", "local")
    check_reachable(address)
    ray.init(
        address,
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


def check_reachable(address: str) -> None:
    """Look at HOST:PORT for a few seconds; Ray itself tries for several minutes.

    Raises:
        BadPlace: nothing answers there.
    """
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdigit():
        return  # "local", "auto", ray://...
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise BadPlace(
            f"nothing answers at RAY_ADDRESS={address} ({error}) - start Ray there, or unset"
            " RAY_ADDRESS to run on this machine alone"
        ) from None
