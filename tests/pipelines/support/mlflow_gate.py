"""A real MLflow server on loopback, and a gate before it that breaks what passes on purpose.

ok      passes
refuse  nobody listens
500     the gate answers with an internal error
hang    the gate takes the request and never answers
took    MLflow takes the request, the answer is lost
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cluster.local.services import MLFLOW_ENV, free_ports, listens, mlflow_command

START_SECONDS = 200  # on a busy machine


class MlflowServer:
    """A server that can be killed and started again on its data."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_ports(1)[0]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                mlflow_command(self.folder, self.port),
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **MLFLOW_ENV, "HOME": str(self.folder)},
                start_new_session=True,
            )
        end = time.monotonic() + START_SECONDS
        while not (listens(self.port) and self._answers()):  # the first request is a slow one
            said = (self.folder / "log").read_text()[-2000:]
            assert self.process.poll() is None, said
            assert time.monotonic() < end, said
            time.sleep(0.2)

    def _answers(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        with suppress(OSError, HTTPException):
            connection.request("GET", "/api/2.0/mlflow/experiments/search?max_results=1")
            return connection.getresponse().status == 200
        return False

    def kill(self) -> None:
        """With its worker processes, as a node that goes away."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait(60)


@contextmanager
def running_mlflow(folder: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


class Gate:
    """An HTTP proxy on a port of its own; `fault` says what becomes of a request."""

    def __init__(self, upstream: int) -> None:
        self.upstream, self.port = upstream, free_ports(1)[0]
        self.fault: Callable[[str, bytes], str] = lambda path, body: "ok"
        self.seen: list[str] = []
        self._open = threading.Event()
        self._server: ThreadingHTTPServer | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def break_with(self, fault: str) -> None:
        """Every request, from now on."""
        self._open.clear()
        self.fault = lambda path, body: fault
        if fault == "refuse":
            self.stop()

    def heal(self) -> None:
        self.fault = lambda path, body: "ok"
        self._open.set()  # those that hang end without an answer
        if self._server is None:
            self.start()

    def start(self) -> None:
        handler = type("Handler", (_Handler,), {"gate": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def wait_open(self) -> None:
        self._open.wait()


@contextmanager
def gate_before(server: MlflowServer) -> Iterator[Gate]:
    gate = Gate(server.port)
    gate.start()
    try:
        yield gate
    finally:
        gate.heal()
        gate.stop()


class _Handler(BaseHTTPRequestHandler):
    gate: Gate

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.gate.fault(self.path, body)
        self.gate.seen.append(fault)
        if fault == "hang":
            self.gate.wait_open()
            return
        if fault == "500":
            self.send_error(500)
            return
        connection = HTTPConnection("127.0.0.1", self.gate.upstream, timeout=60)
        connection.putrequest(self.command, self.path, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("host", "connection"):
                connection.putheader(name, value)
        connection.endheaders(body)
        reply = connection.getresponse()
        data = reply.read()
        connection.close()
        if fault == "took":
            return
        self.send_response_only(reply.status, reply.reason)
        for name, value in reply.headers.items():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(OSError):
            super().handle()
