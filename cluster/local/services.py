"""The servers beside Ray: SeaweedFS as S3 and MLflow on SQLite, both on loopback."""

import json
import secrets
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

BUCKET = "vit-on-ray"
_IDENTITY = "vit-on-ray"
_TRIES = 1000


@dataclass(frozen=True, kw_only=True)
class S3Account:
    """Where the S3 server is and what opens it."""

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """The standard AWS variables."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def find_weed() -> str | None:
    """SeaweedFS's program: beside this Python (the extra `dev` installs it) or on the path."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def new_account(folder: Path, port: int) -> S3Account:
    """Keys that nobody else has, written where the server reads them; those of before if any."""
    path = folder / "s3.json"
    if path.exists():
        keys = json.loads(path.read_text())["identities"][0]["credentials"][0]
    else:
        keys = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_hex(20)}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": _IDENTITY, "credentials": [keys], "actions": actions}
        path.touch(mode=0o600)
        path.write_text(json.dumps({"identities": [identity]}))
    return S3Account(
        endpoint=f"http://127.0.0.1:{port}",
        access_key=keys["accessKey"],
        secret_key=keys["secretKey"],
    )


def s3_command(weed: str, folder: Path, ports: list[int], *, scratch: Path) -> list[str]:
    """`weed server` with what is not S3 switched off; 7 ports."""
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
        "master.volumeSizeLimitMB": 64,
        "master.telemetry": "false",
    }
    return [weed, "server", *(f"-{name}={value}" for name, value in options.items())]


def make_bucket(account: S3Account) -> bool:
    """Whether the server took the bucket and an object."""
    import boto3.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    session = boto3.session.Session(account.access_key, account.secret_key, region_name="us-east-1")
    config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
    client = session.client("s3", endpoint_url=account.endpoint, config=config)
    try:
        found = {each["Name"] for each in client.list_buckets()["Buckets"]}
        if BUCKET not in found:
            client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key=".ready", Body=b"x")
        client.delete_object(Bucket=BUCKET, Key=".ready")
    except (BotoCoreError, ClientError):
        return False
    return True


def mlflow_command(folder: Path, port: int) -> list[str]:
    """MLflow's server; its database and artifacts stay in the folder."""
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--allowed-hosts", f"localhost:{port},127.0.0.1:{port}"),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder / "mlflow-artifacts")),
    ]


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now; below 30,000, where no client is given one, and with room
    above: SeaweedFS adds 10,000 for some."""
    found: list[int] = []
    for _ in range(_TRIES):
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as probe, socket.socket() as shifted:
            try:
                probe.bind(("127.0.0.1", port))
                shifted.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        if port not in found:
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"fewer than {count} ports between 20000 and 30000 are free")


def listens(port: int) -> bool:
    """Whether somebody does, on loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
