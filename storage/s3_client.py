"""One boto3 client for all S3 stores of a process: making one takes longer than twenty requests."""

import os
import random
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, TypeVar
from urllib.request import getproxies

import boto3.session
from botocore.config import Config
from botocore.exceptions import NoCredentialsError

from storage.errors import BadUri
from storage.proxies import is_loopback

T = TypeVar("T")
Checksums = Literal["when_supported", "when_required"]
_CONNECTIONS = 32
_WITH_SUCCESS: set[tuple[object, ...]] = set()


class Client:
    """Calls boto3's client, which is made on first use."""

    def __init__(
        self,
        *,
        attempts: int,
        connect_seconds: float,
        read_seconds: float,
        checksums: Checksums | None = None,
    ) -> None:
        """Take the settings of a client.

        Args:
            attempts: attempts per request that gets no usable reply.
            connect_seconds: timeout for a connection.
            read_seconds: timeout for the next bytes.
            checksums: when boto adds its own checksums; by default as the environment says.
        """
        self.attempts = attempts
        self._settings = attempts, connect_seconds, read_seconds, checksums

    def made(self) -> Any:
        """The client for the current environment.

        A forked process gets its own client, because connections cannot be shared with it.

        Raises:
            BadUri: AWS_ENDPOINT_URL is malformed.
        """
        try:
            return _client(*self._settings, _surroundings())
        except ValueError as error:
            raise BadUri("AWS_ENDPOINT_URL is not a URL such as http://host:port") from error

    def ask(self, do: Callable[[Any], T]) -> T:
        """Call `do` with the client; retry if the machine's role did not give credentials.

        A metadata service throttles when 64 processes of a machine ask at once, and a client that
        was made without credentials never looks for them again.
        """
        for attempt in range(1, self.attempts + 1):
            try:
                return do(self.made())
            except NoCredentialsError:
                _client.cache_clear()
                if attempt == self.attempts or not (_has_role() or self.worked_before()):
                    raise
                time.sleep(random.uniform(0.2, 0.4) * 2 ** (attempt - 1))  # noqa: S311  # jitter
        raise AssertionError("unreachable")

    def worked_before(self) -> bool:
        """Whether a request of this process succeeded, with the same environment."""
        return _surroundings() in _WITH_SUCCESS


def _has_role() -> bool:
    """Whether the machine's or the container's metadata service may give credentials."""
    containers = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
    if any(name in os.environ for name in containers):
        return True
    return os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true"


def _surroundings() -> tuple[object, ...]:
    """Everything that a client depends on: if it changes, a new client is made."""
    environment = sorted(pair for pair in os.environ.items() if pair[0].startswith("AWS_"))
    credentials = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    settings = os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")
    proxies = sorted(getproxies().items())
    return os.getpid(), *environment, *proxies, _changed(credentials), _changed(settings)


def _changed(path: str) -> int:
    """Time of a file's last change; 0 if it cannot be read."""
    try:
        return os.stat(os.path.expanduser(path)).st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=8)
def _client(
    attempts: int,
    connect_seconds: float,
    read_seconds: float,
    checksums: Checksums | None,
    surroundings: tuple[object, ...],
) -> Any:
    session: Any = boto3.session.Session()
    config: Any = Config(
        connect_timeout=connect_seconds,
        read_timeout=read_seconds,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=_CONNECTIONS,
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
    )
    client = session.client("s3", config=config)
    if not client.meta.endpoint_url.endswith(".amazonaws.com"):
        # other servers rarely have a DNS name per bucket
        other: Any = Config(s3={"addressing_style": "path"})
        if is_loopback(client.meta.endpoint_url):
            other = other.merge(Config(proxies={}))  # none, whatever the environment says
        client = session.client("s3", config=config.merge(other))

    def note(http_response: Any, **_: object) -> None:
        if http_response.status_code < 400:
            _WITH_SUCCESS.add(surroundings)

    client.meta.events.register("after-call.s3", note)
    return client
