"""What only the S3 side does: errors of servers, credentials and connections, in bounded time."""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from cluster.local.s3 import S3Server
from storage.errors import AccessDenied, BadUri, NotWritable, ObjectNotFound, Unavailable
from storage.objects import open_store
from storage.s3 import S3Store


def test_missing_bucket_is_named(s3: S3Server) -> None:
    with pytest.raises(NotWritable, match="no bucket 'no-such-bucket'"):
        open_store("s3://no-such-bucket/x").check_writable()


def test_missing_credentials_say_which_variables(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with pytest.raises(NotWritable, match="AWS_ACCESS_KEY_ID"):
        open_store(s3.uri("x")).check_writable()


def test_wrong_secret_is_access_denied_and_not_repeated(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-hunter2")
    with pytest.raises(AccessDenied, match=r"SignatureDoesNotMatch|AccessDenied") as caught:
        open_store(s3.uri("x")).write("y", b"")
    assert "hunter2" not in str(caught.value)


def test_refused_connection_is_unavailable_within_seconds(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hunter2@127.0.0.1:9")
    store = S3Store("bucket", request_attempts=2)
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"EndpointConnectionError at 127\.0\.0\.1:9") as caught:
        store.read("x")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(NotWritable, match="EndpointConnectionError"):
        store.check_writable()
    assert time.monotonic() - started < 10


def test_malformed_endpoint_is_named(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(BadUri, match="AWS_ENDPOINT_URL"):
        open_store(s3.uri("x")).read("y")


def test_the_endpoint_of_s3_alone_counts(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"{s3.endpoint}/")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    store = open_store(s3.uri("endpoint", "é x"))
    store.write("ü", b"1")
    assert (list(store.list()), store.read("ü")) == (["ü"], b"1")


def test_prefixes_do_not_see_each_other(s3: S3Server) -> None:
    open_store(s3.uri("p", "a")).write("x", b"1")
    open_store(s3.uri("p", "ab")).write("x", b"2")
    assert list(open_store(s3.uri("p", "a")).list()) == ["x"]
    with pytest.raises(ObjectNotFound):
        open_store(s3.uri("p")).read("x")


def test_stores_share_a_client_until_the_credentials_change(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))

    def rotate(secret: str) -> None:
        file.write_text(f"[default]\naws_access_key_id={key}\naws_secret_access_key={secret}\n")

    rotate(secret)
    first, second = (open_store(s3.uri("shared", name)) for name in "ab")
    assert isinstance(first, S3Store)
    assert isinstance(second, S3Store)
    assert first._client.made() is second._client.made()
    rotate("expired")
    with pytest.raises(AccessDenied):
        open_store(s3.uri("shared")).write("x", b"1")
    rotate(secret)
    open_store(s3.uri("shared")).write("x", b"1")


def test_a_fork_has_a_client_of_its_own(s3: S3Server) -> None:
    ours = S3Store(s3.bucket)._client.made()
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        assert pool.submit(_same_client, s3.bucket, id(ours)).result() is False


def _same_client(bucket: str, client: int) -> bool:
    return id(S3Store(bucket)._client.made()) == client
