"""Servers that lack something: the reason, and what mends it, are named before a training."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import ClassVar

import boto3.session
import pytest
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cluster.local.s3 import S3Server
from storage.errors import (
    AccessDenied,
    NoCredentials,
    NotWritable,
    ObjectChanged,
    ObjectExists,
    Unavailable,
)
from storage.s3 import S3Store
from storage.s3_client import _client
from tests.storage.support.proxy import FaultyProxy, faulty_proxy

pytestmark = pytest.mark.waits

ONE_WRITER = "VIT_ON_RAY_CONDITIONAL_WRITES"


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


def store_at(s3: S3Server, folder: Path) -> S3Store:
    return S3Store(s3.bucket, f"servers/{folder.name}", request_attempts=2)


def without_conditions(method: str, headers: Message) -> tuple[int, str] | None:
    return (501, "NotImplemented") if "If-None-Match" in headers else None


def without_checksums(method: str, headers: Message) -> tuple[int, str] | None:
    """Old MinIO, Ceph and OVH: the code differs from server to server."""
    new = any(name.lower().startswith("x-amz-checksum") for name in headers)
    return (400, "InvalidDigest") if new else None


def test_a_server_that_refuses_conditional_writes_is_told_before_a_training(
    s3: S3Server, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.refuses = without_conditions
    store = store_at(s3, tmp_path)
    with pytest.raises(NotWritable, match=f"If-None-Match.*{ONE_WRITER}=off"):
        store.check_writable()
    monkeypatch.setenv(ONE_WRITER, "off")
    store.check_writable()
    store.write("a", b"1", if_absent=True)
    with pytest.raises(ObjectExists):
        store.write("a", b"2", if_absent=True)


def test_a_server_that_answers_with_an_odd_code_is_understood_by_trying(
    s3: S3Server, proxy: FaultyProxy, tmp_path: Path
) -> None:
    proxy.refuses = lambda _, headers: (400, "BadHeader") if "If-None-Match" in headers else None
    store = store_at(s3, tmp_path)
    with pytest.raises(NotWritable, match=f"Plain writes work.*{ONE_WRITER}=off"):
        store.check_writable()
    assert list(store.list()) == []


def test_a_server_that_ignores_the_condition_is_told_before_a_training(
    s3: S3Server, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Google Cloud Storage does: the second writer would replace a commit."""
    client = boto3.session.Session(s3.access_key, s3.secret_key, region_name="us-east-1").client(
        "s3", endpoint_url=s3.endpoint, config=Config(s3={"addressing_style": "path"})
    )

    def write_plainly(path: str, body: bytes, headers: Message) -> bool:
        if "If-None-Match" not in headers:
            return False
        bucket, _, key = path.lstrip("/").partition("/")
        client.put_object(Bucket=bucket, Key=key, Body=body)
        return True

    proxy.answers = write_plainly
    store = store_at(s3, tmp_path)
    with pytest.raises(NotWritable, match=f"ignores If-None-Match.*{ONE_WRITER}=off"):
        store.check_writable()
    assert list(store.list()) == []
    monkeypatch.setenv(ONE_WRITER, "off")
    store.check_writable()


def test_a_server_without_botos_checksums_is_told_which_variables_mend_it(
    s3: S3Server, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.refuses = without_checksums
    store = store_at(s3, tmp_path)
    with pytest.raises(NotWritable, match="AWS_REQUEST_CHECKSUM_CALCULATION=when_required"):
        store.check_writable()
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    store.check_writable()


def test_a_certificate_that_is_not_trusted_is_told_with_the_variable(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, path = self_signed(tmp_path)
    with faulty_proxy(s3.endpoint, context) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        store = store_at(s3, tmp_path)
        wanted = r"certificate of 127\.0\.0\.1:\d+ is not trusted \(self-signed.*AWS_CA_BUNDLE"
        with pytest.raises(NotWritable, match=wanted):
            store.check_writable()
        with pytest.raises(Unavailable, match=wanted):
            store.read("x")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "elsewhere.pem"))
        with pytest.raises(NotWritable, match=r"AWS_CA_BUNDLE is .*elsewhere\.pem"):
            store.check_writable()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
        # else boto sends chunks under TLS, which the proxy does not read
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        store.check_writable()


def test_an_undecided_conditional_write_is_tried_again(
    s3: S3Server, proxy: FaultyProxy, tmp_path: Path
) -> None:
    """409: another one is under way, and the object may not be there yet."""
    waiting = [(409, "ConditionalRequestConflict")] * 2
    proxy.refuses = lambda method, _: waiting.pop() if waiting and method == "PUT" else None
    store = store_at(s3, tmp_path)
    store.write("manifest.json", b"mine", if_absent=True)
    assert store.read("manifest.json") == b"mine"
    assert not waiting


def test_a_conditional_write_that_stays_undecided_ends(
    s3: S3Server, proxy: FaultyProxy, tmp_path: Path
) -> None:
    proxy.refuses = lambda method, _: (409, "ConditionalRequestConflict")
    with pytest.raises(Unavailable, match="ConditionalRequestConflict"):
        store_at(s3, tmp_path).write("manifest.json", b"mine", if_absent=True)


def test_a_whole_object_is_of_one_version(s3: S3Server, proxy: FaultyProxy, tmp_path: Path) -> None:
    """It was asked for its size first: of a longer one written in between only a prefix came."""
    store = store_at(s3, tmp_path)
    store.write("quarantine.json", b"[1]")
    with s3.environment():
        straight = S3Store(store.bucket, store.prefix)

    seen: list[str] = []

    def replaced(method: str) -> None:
        seen.append(method)
        if len(seen) == 2 or method == "GET":
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
                straight.write("quarantine.json", b"[1, 2, 3, 4]")

    proxy.before = replaced
    assert store.read("quarantine.json") in (b"[1]", b"[1, 2, 3, 4]")
    assert seen == ["GET"]


def test_parts_of_a_download_are_of_one_version(
    s3: S3Server, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.s3_reads.PART_BYTES", 1 << 10)
    store = store_at(s3, tmp_path)
    store.parallel_reads = 1
    store.write("x", b"a" * 4096)
    straight = S3Store(store.bucket, store.prefix)
    seen: list[str] = []

    def replaced(method: str) -> None:
        seen.append(method)
        if len(seen) == 3:  # the size was asked for, and one part came
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
                straight.write("x", b"b" * 4096)

    proxy.before = replaced
    with pytest.raises(ObjectChanged, match="replaced while it was read"):
        store.download("x", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_credentials_that_are_gone_after_a_success_are_the_worlds_failure(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine's role gives them, and its metadata service throttles now and then."""
    store = store_at(s3, tmp_path)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(NoCredentials, match="AWS_ACCESS_KEY_ID"):
        store.write("x", b"1")
    assert issubclass(NoCredentials, AccessDenied)
    with metadata_service(s3, monkeypatch) as service:
        store.write("x", b"1")
        service.throttled = 1
        forget_clients()
        store.write("x", b"2")  # asked again
        service.throttled = 1000
        forget_clients()
        with pytest.raises(Unavailable, match="gave no AWS credentials, although it did before"):
            store.write("x", b"3")


def self_signed(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's context and the file of its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path, key_path = folder / "certificate.pem", folder / "key.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key_path)
    return context, path


def forget_clients() -> None:
    _client.cache_clear()


class Metadata(BaseHTTPRequestHandler):
    """The metadata service of a machine with a role."""

    throttled = 0
    keys: ClassVar[dict[str, str]] = {}

    def do_PUT(self) -> None:
        self.answer("token")

    def do_GET(self) -> None:
        if Metadata.throttled:
            Metadata.throttled -= 1
            self.send_error(429)
            return
        self.answer("role" if self.path.endswith("/") else json.dumps(Metadata.keys))

    def answer(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def metadata_service(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Metadata]]:
    Metadata.throttled = 0
    Metadata.keys = {
        "Code": "Success",
        "AccessKeyId": s3.access_key,
        "SecretAccessKey": s3.secret_key,
        "Token": "",
        "Expiration": (datetime.now(UTC) + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        place = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", place)
        yield Metadata
        server.shutdown()
