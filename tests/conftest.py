"""One S3 server and one Ray for the whole session; nothing of the user's home is touched."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.environment import set_variables
from cluster.local.s3 import S3Server, running_s3

FOREIGN = {
    **{"RANK": "7", "LOCAL_RANK": "3", "WORLD_SIZE": "64"},
    **{"MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "1"},  # an address that never answers
    **{"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"},  # nothing listens
}
"""What torchrun, SLURM or a company's proxy leave in a shell."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark tests that use the session's Ray: `make test` runs them beside the others."""
    if "ray_session" in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.ray)


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of the session's own: Ray writes a token there, which locks out a running cluster."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.delenv("RAY_ADDRESS", raising=False)  # a cluster of the session's own
        yield home


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server on loopback."""
    with running_s3() as server:
        yield server


@pytest.fixture(scope="session")
def ray_session(s3_server: S3Server) -> Iterator[str]:
    """One local Ray for all tests that train or stream; its workers can reach the S3 server.

    It is started from a shell with variables of others, which must change nothing.
    """
    import ray

    from pipelines.cli.loopback import bypass_proxy
    from pipelines.cli.ray_session import ray_session

    with (
        s3_server.environment(),  # raylets pass it on to the workers they start
        set_variables(FOREIGN),
        set_variables(bypass_proxy({**os.environ, **FOREIGN})),  # as a script does when it starts
        ray_session(verbose=False, num_cpus=4),
    ):
        yield ray.get_runtime_context().gcs_address
