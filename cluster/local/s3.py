"""A local S3 server: SeaweedFS on loopback, for `cluster.local`, tests and benchmarks.

    with running_s3() as server:
        with server.environment():          # AWS_* for this process and its children
            open_store(server.uri("data"))

Unlike an in-process fake it can be killed, refuses conditional writes correctly, and breaks off
connections as a real server does.
"""

import json
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from cluster.environment import set_variables
from cluster.local.services import free_ports

BUCKET = "vit-on-ray"
_IDENTITY = "vit-on-ray"
_START_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """Address and credentials of an S3 server."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str = BUCKET

    @property
    def variables(self) -> dict[str, str]:
        """The standard AWS variables."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def uri(self, *parts: str) -> str:
        """`s3://bucket/part/part`."""
        return "/".join(["s3:/", self.bucket, *parts])

    @contextmanager
    def environment(self) -> Generator[None]:
        """Set the AWS variables for this process and its children, then restore the old values."""
        with set_variables(self.variables):
            yield


@contextmanager
def running_s3(bucket: str = BUCKET) -> Generator[S3Server]:
    """Run a server in a temporary folder, ready and with a bucket; it is killed at the end.

    Raises:
        RuntimeError: SeaweedFS is not installed, or did not start.
    """
    weed = find_weed()
    if weed is None:
        raise RuntimeError("`weed` is not installed: pip install 'vit-on-ray[dev]'")
    with TemporaryDirectory(prefix="weed-") as name:
        folder, ports = Path(name), free_ports(7)
        server = replace(new_server(folder, ports[0]), bucket=bucket)
        command = s3_command(weed, folder, ports, scratch=folder)
        with (folder / "weed.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)  # noqa: S603
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not make_bucket(server):
                if process.poll() is not None or time.monotonic() > deadline:
                    last = (folder / "weed.log").read_text(errors="replace")[-3000:]
                    raise RuntimeError(f"weed did not start:\n{last}")
                time.sleep(0.2)
            yield server
        finally:
            process.kill()  # its folder goes too; an orderly shutdown takes ten seconds
            process.wait()


def find_weed() -> str | None:
    """Find SeaweedFS's program beside this Python (the extra `dev` installs it) or on the path."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def new_server(folder: Path, port: int) -> S3Server:
    """Make random keys and write them where the server reads them, or reuse existing ones."""
    path = folder / "s3.json"
    if path.exists():
        keys = json.loads(path.read_text())["identities"][0]["credentials"][0]
    else:
        keys = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_hex(20)}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": _IDENTITY, "credentials": [keys], "actions": actions}
        path.touch(mode=0o600)
        path.write_text(json.dumps({"identities": [identity]}))
    return S3Server(
        endpoint=f"http://127.0.0.1:{port}",
        access_key=keys["accessKey"],
        secret_key=keys["secretKey"],
    )


def s3_command(weed: str, folder: Path, ports: list[int], *, scratch: Path) -> list[str]:
    """Command line of `weed server` with only S3 switched on. It needs 7 ports."""
    s3, s3_grpc, filer, filer_grpc, volume, volume_grpc, master = ports
    (folder / "s3").mkdir(exist_ok=True)
    options = {
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "dir": folder / "s3",
        "s3": "true",
        "s3.port": s3,
        "s3.port.grpc": s3_grpc,
        "s3.config": folder / "s3.json",
        "s3.autoCreateBucket": "false",  # a missing bucket must be an error, as on AWS
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "filer.port": filer,
        "filer.port.grpc": filer_grpc,
        "filer.localSocket": scratch / "filer.sock",
        "volume.port": volume,
        "volume.port.grpc": volume_grpc,
        "volume.max": 0,
        "master.port": master,
        "master.peers": "none",  # alone, it elects nobody, which takes a second or six
        "master.volumeSizeLimitMB": 64,
        "master.telemetry": "false",
    }
    return [weed, "server", *(f"-{name}={value}" for name, value in options.items())]


def make_bucket(server: S3Server) -> bool:
    """Make the server's bucket; return whether the bucket and an object could be written."""
    session = boto3.session.Session(server.access_key, server.secret_key, region_name="us-east-1")
    config = Config(  # it is on loopback, where no proxy leads
        retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, proxies={}
    )
    client = session.client("s3", endpoint_url=server.endpoint, config=config)
    try:
        found = {each["Name"] for each in client.list_buckets()["Buckets"]}
        if server.bucket not in found:
            client.create_bucket(Bucket=server.bucket)
        client.put_object(Bucket=server.bucket, Key=".ready", Body=b"x")
        client.delete_object(Bucket=server.bucket, Key=".ready")
    except (BotoCoreError, ClientError):
        return False
    return True
