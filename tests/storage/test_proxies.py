"""A company's proxy in the environment: servers on this machine are asked without it."""

import socket

import pytest

from cluster.local.s3 import S3Server, make_bucket
from storage.errors import AccessDenied, Unavailable
from storage.proxies import is_loopback, proxy_of
from storage.s3 import S3Store
from storage.s3_errors import explained


@pytest.fixture
def dead_proxy(monkeypatch: pytest.MonkeyPatch) -> str:
    """HOST:PORT where nothing listens, in the variables that name a proxy."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    for name in ("http_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://me:secret@{host}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return host


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:9000", True), ("https://localhost", True), ("http://[::1]:1", True),
        ("http://127.8.0.1", True), ("http://10.0.0.1", False), ("https://s3.example", False),
        ("sqlite:///mlflow.db", False),
    ],
)  # fmt: skip
def test_addresses_of_this_machine_are_known(url: str, here: bool) -> None:
    assert is_loopback(url) == here


def test_the_proxy_of_a_url_is_named_without_its_login(
    dead_proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert proxy_of("http://minio.example:9000") == dead_proxy
    assert proxy_of("https://s3.amazonaws.com") == dead_proxy
    assert proxy_of("http://127.0.0.1:9000") is None
    assert proxy_of("sqlite:///mlflow.db") is None
    monkeypatch.setenv("no_proxy", "minio.example")
    assert proxy_of("http://minio.example:9000") is None


def test_a_bucket_on_loopback_is_used_without_the_proxy(s3: S3Server, dead_proxy: str) -> None:
    store = S3Store(s3.bucket, "proxies", request_attempts=1)
    store.write("a", b"1")
    assert store.read("a") == b"1"
    assert make_bucket(s3)


def test_a_bucket_behind_a_dead_proxy_names_it_and_the_variable(
    s3: S3Server, dead_proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio.example:9000")
    with pytest.raises(Unavailable) as caught:
        S3Store(s3.bucket, "proxies", request_attempts=1).read("a")
    assert dead_proxy in str(caught.value)
    assert "minio.example needs none, add it to no_proxy" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_refusal_without_a_code_of_s3_may_be_the_proxys() -> None:
    from botocore.exceptions import ClientError

    for code, told in (("403", True), ("InvalidAccessKeyId", False)):
        error = ClientError({"Error": {"Code": code}}, "GetObject")
        found = explained(
            error, "s3://b/a", "reading", bucket="b", server="h", attempts=1, worked_before=False,
            through="requests go through the proxy p",
        )  # fmt: skip
        assert isinstance(found, AccessDenied)
        assert ("the proxy p" in str(found)) == told
