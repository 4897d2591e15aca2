"""A real S3 server for tests: SeaweedFS on loopback, in a temporary folder, stopped by its own pid.

    with running_s3() as server:
        with server.environment():          # AWS_* for this process and its children
            open_store(server.uri("data"))

It is a separate process that can be killed, refuses conditional writes properly and tears
connections like the real one, none of which an in-process fake does.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

_START_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """Where the server is, and how to talk to it."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str
    pid: int

    @property
    def env(self) -> dict[str, str]:
        """The standard AWS variables."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def uri(self, *parts: str) -> str:
        """s3://bucket/part/part."""
        return "/".join(["s3:/", self.bucket, *parts])

    @contextmanager
    def environment(self) -> Iterator[None]:
        """Set the AWS variables in this process (and its children), then put back what was
        there."""
        before = {name: os.environ.get(name) for name in self.env}
        os.environ.update(self.env)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


@contextmanager
def running_s3(bucket: str = "test-bucket") -> Iterator[S3Server]:
    """Start the server, wait until it took a bucket, stop it at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="weed-")))
        access_key, secret_key = "test-key", secrets.token_hex(16)
        (folder / "s3.json").write_text(_identities(access_key, secret_key))
        ports = _free_ports(7)
        log = stack.enter_context(open(folder / "weed.log", "wb"))
        process = subprocess.Popen(
            _command(folder, ports), stdout=log, stderr=subprocess.STDOUT, cwd=folder
        )
        stack.callback(_stop, process)
        server = S3Server(
            endpoint=f"http://127.0.0.1:{ports[0]}",
            bucket=bucket,
            access_key=access_key,
            secret_key=secret_key,
            pid=process.pid,
        )
        _wait_until_ready(server, process, folder / "weed.log")
        yield server


def _command(folder: Path, ports: list[int]) -> list[str]:
    """`weed server` with everything off that an S3 test does not need."""
    s3, s3_grpc, filer, filer_grpc, volume, volume_grpc, master = ports
    options = {
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "dir": folder,
        "s3": "true",
        "s3.port": s3,
        "s3.port.grpc": s3_grpc,
        "s3.config": folder / "s3.json",
        "s3.autoCreateBucket": "false",  # a missing bucket must be an error, as on AWS
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "filer.port": filer,
        "filer.port.grpc": filer_grpc,
        "filer.localSocket": folder / "filer.sock",
        "volume.port": volume,
        "volume.port.grpc": volume_grpc,
        "volume.max": 0,
        "master.port": master,
        "master.volumeSizeLimitMB": 64,
        "master.telemetry": "false",
    }
    weed = Path(sys.executable).with_name("weed")
    return [str(weed), "server", *(f"-{name}={value}" for name, value in options.items())]


def _identities(access_key: str, secret_key: str) -> str:
    identity = {
        "name": "test",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    return json.dumps({"identities": [identity]})


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens on now; below 50,000, because SeaweedFS adds 10,000 for some."""
    found: list[int] = []
    while len(found) < count:
        port = 20_000 + secrets.randbelow(30_000)
        with socket.socket() as probe, socket.socket() as shifted:
            try:
                probe.bind(("127.0.0.1", port))
                shifted.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def _wait_until_ready(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    session = boto3.session.Session(server.access_key, server.secret_key, region_name="us-east-1")
    config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
    client = session.client("s3", endpoint_url=server.endpoint, config=config)
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            client.create_bucket(Bucket=server.bucket)
            client.put_object(Bucket=server.bucket, Key=".ready", Body=b"x")
            client.delete_object(Bucket=server.bucket, Key=".ready")
            return
        except client.exceptions.BucketAlreadyExists:
            pass
        except (BotoCoreError, ClientError):
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"weed did not come up:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # its folder goes too; an orderly shutdown takes it ten seconds
    process.wait()
