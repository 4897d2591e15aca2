"""Ray for a script: the cluster that RAY_ADDRESS names, else a local one; quiet by default.

Submitted jobs have RAY_ADDRESS. Without it, Ray itself would connect to whichever Ray was started
last on this machine, even another user's or a dead one.
"""

import contextlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import psutil
import ray
import ray.data
from ray._private import services  # for `_patience` alone

from pipelines.cli import ray_token
from pipelines.cli.exits import Failed
from pipelines.cli.ray_address import LOCAL, read_address, variables_of_head
from pipelines.cli.ray_folder import ray_folder
from pipelines.cli.ray_watch import watched

WORKER_ENV = {
    "PYTHONSAFEPATH": "1",  # `pipelines/` must not come first on sys.path
    "WDS_SECURE": "1",  # no shell from `pipe:` URLs
}
QUIET_ENV = {
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # of a queue that was asked while Ctrl-C came
}
LOCAL_ENV = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process that asks whether nodes are taken away
}
START_SECONDS = 90.0
_STARTS = 2  # attempts to start a local Ray


@contextlib.contextmanager
def ray_session(*, verbose: bool, num_cpus: int | None = None) -> Iterator[None]:
    """Connect to RAY_ADDRESS, or start a local Ray for as long as the block lasts.

    If this process is connected to a Ray already, it uses that and leaves it running. `num_cpus`
    sets how many CPUs a local Ray pretends to have.

    Raises:
        BadPlace: RAY_ADDRESS is wrong, nothing answers there, or a local Ray has no usable folder.
        Failed: a local Ray does not start, or the cluster ended.
    """
    if ray.is_initialized():
        yield
        return
    level = logging.INFO if verbose else logging.ERROR
    if not verbose:
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
        # Ray Data warns that a few images do not keep all of its actors busy.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"ray\.data")
    address = read_address()
    local = address == LOCAL
    # A Ray of our own gives its processes our environment. Variables of the job instead would
    # make the workers useless that it starts ahead.
    variables = (
        {**ray_token.variables_of_own_ray(), **WORKER_ENV, **LOCAL_ENV}
        if local
        else variables_of_head(address)
    )
    with ray_token.environment({**variables, **QUIET_ENV}):
        if local:
            _start(num_cpus=num_cpus, level=level, verbose=verbose)
        else:
            _connect(address, level=level, verbose=verbose)
        for name in ("ray", "ray.train", "ray.data"):
            logging.getLogger(name).setLevel(level)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = verbose
        context.print_on_execution_start = verbose
        try:
            with watched(None if local else address):
                yield
        finally:
            ray.shutdown()


def _start(*, num_cpus: int | None, level: int, verbose: bool) -> None:
    """Start a local Ray; try once more if it was too slow."""
    folder = ray_folder()
    before = set(psutil.Process().children(recursive=True))
    for tried in range(1, _STARTS + 1):
        try:
            with _patience():
                ray.init(
                    LOCAL,
                    num_cpus=num_cpus,
                    logging_level=level,
                    log_to_driver=verbose,
                    include_dashboard=False,
                    _temp_dir=folder,
                )
            return
        except (
            Exception
        ) as error:  # too slow is a plain Exception, a RuntimeError or a TimeoutError
            _end(set(psutil.Process().children(recursive=True)) - before)
            reason = " ".join(str(error).split())[:200]
            if not isinstance(error, RuntimeError | OSError) and type(error) is not Exception:
                raise
            if tried == _STARTS:
                raise Failed(
                    f"Ray did not start on this machine, {tried} times: {reason} - the load average"
                    f" is {os.getloadavg()[0]:.0f} on {os.cpu_count()} CPUs; run the same command"
                    " again when the machine is less busy (pipelines/doctor.py checks the rest)"
                ) from error
            print(f"Ray did not start ({reason}); trying once more", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Make Ray wait `START_SECONDS` for its raylet; its fixed 30 s are few on a busy machine."""
    ask = services.get_node
    deadline = time.monotonic() + START_SECONDS

    def ask_longer(*arguments: Any, **options: Any) -> Any:
        while True:
            try:
                return ask(*arguments, **options)
            except RuntimeError:  # its node is not known yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    services.get_node = ask_longer
    try:
        yield
    finally:
        services.get_node = ask


def _end(processes: set[psutil.Process]) -> None:
    """Kill the processes that a failed start left behind."""
    ray.shutdown()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(list(processes), timeout=5)


def _connect(address: str, *, level: int, verbose: bool) -> None:
    """Connect to a Ray head that is known to answer."""
    try:
        ray.init(
            address,
            logging_level=level,
            log_to_driver=verbose,
            runtime_env={"env_vars": WORKER_ENV},
        )
    except (ConnectionError, RuntimeError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise Failed(
            f"the Ray head at {address} answers, but refuses this driver: {reason} - a driver"
            " must run on a node of the cluster: use `ray job submit` from elsewhere"
        ) from error
