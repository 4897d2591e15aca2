"""One S3 server and one Ray for the whole session; nothing of the user's home is touched."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local.s3 import S3Server, running_s3


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark tests that use the session's Ray: `make test` runs them beside the others."""
    if "ray_session" in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.ray)
        assert "ray_session" in item.path.read_text(), f"{item.path} does not name it"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`make test-ray` imports the files that name the session's Ray: all take ten seconds."""
    if config.option.markexpr.startswith("ray ") and collection_path.suffix == ".py":
        return "ray_session" not in collection_path.read_text() or None
    return None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that mostly wait, so that others run meanwhile."""
    items.sort(key=lambda item: item.get_closest_marker("waits") is None)


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
    """One local Ray for all tests that train or stream; its workers can reach the S3 server."""
    import ray

    from pipelines.cli.ray_session import ray_session

    with (
        s3_server.environment(),  # raylets pass it on to the workers they start
        ray_session(verbose=False, num_cpus=4),
    ):
        yield ray.get_runtime_context().gcs_address
