"""Small real data sets, and the S3 server's variables for one test at a time."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from cluster.local.s3 import S3Server
from storage.dataset import Dataset
from storage.pack import pack
from storage.pack.digits import Digits

settings.register_profile("busy", deadline=None)  # a shared machine stalls; it proves nothing
settings.load_profile("busy")


@pytest.fixture
def s3(s3_server: S3Server) -> Iterator[S3Server]:
    """The server, with its AWS variables set for this test."""
    with s3_server.environment():
        yield s3_server


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """scikit-learn's digits in several small shards."""
    return pack(Digits(), str(tmp_path_factory.mktemp("digits") / "packed"), shard_bytes=400 << 10)


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "place")
