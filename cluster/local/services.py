"""Command line of MLflow with SQLite on loopback, and free ports."""

import secrets
import socket
import sys
from pathlib import Path

MLFLOW_ENV = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Environment of MLflow's server: without it eight processes (1.8 GiB) wait to judge LLM traces."""
_TRIES = 1000


def mlflow_command(folder: Path, port: int) -> list[str]:
    """Command line of MLflow's server, to run with `MLFLOW_ENV`; the folder holds its data."""
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--allowed-hosts", f"localhost:{port},127.0.0.1:{port}"),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder / "mlflow-artifacts")),
    ]


def free_ports(count: int) -> list[int]:
    """Find free ports below 30,000, where the system does not assign ports to clients.

    The ports 10,000 above are free too, because SeaweedFS adds 10,000 to some.
    """
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
    """Whether a process listens on this port, on loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
