"""One boto3 client for all S3 stores of a process: making one takes longer than twenty requests."""

import os
from functools import lru_cache
from typing import Any

import boto3.session
from botocore.config import Config

_CONNECTIONS = 32


def shared_client(attempts: int, connect_seconds: float, read_seconds: float) -> Any:
    """A client for what the environment says now.

    A fork has its own: connections are not shared with it.

    Args:
        attempts: of a request that gets no usable reply.
        connect_seconds: patience for a connection.
        read_seconds: patience for the next bytes.

    Raises:
        ValueError: AWS_ENDPOINT_URL is malformed.
    """
    return _client(attempts, connect_seconds, read_seconds, _surroundings())


def _surroundings() -> tuple[object, ...]:
    """What a client depends on and keeps: where it changes, another one is made."""
    environment = sorted(pair for pair in os.environ.items() if pair[0].startswith("AWS_"))
    credentials = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    settings = os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")
    return os.getpid(), *environment, _changed(credentials), _changed(settings)


def _changed(path: str) -> int:
    """When a file was changed last; 0 where it cannot be seen."""
    try:
        return os.stat(os.path.expanduser(path)).st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=8)
def _client(
    attempts: int, connect_seconds: float, read_seconds: float, surroundings: tuple[object, ...]
) -> Any:
    session = boto3.session.Session()
    config = Config(
        connect_timeout=connect_seconds,
        read_timeout=read_seconds,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=_CONNECTIONS,
    )
    client = session.client("s3", config=config)
    if not client.meta.endpoint_url.endswith(".amazonaws.com"):
        # other servers rarely have a DNS name for each bucket
        path_style = config.merge(Config(s3={"addressing_style": "path"}))
        client = session.client("s3", config=path_style)
    return client
