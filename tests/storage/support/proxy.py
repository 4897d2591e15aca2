"""An HTTP proxy on loopback that breaks replies on purpose, in front of a real S3 server.

`faults` draws what happens to the next reply: "ok", "503", "429", "reset" (connection reset in
mid-body), "short" (connection closed in mid-body) or "hang" (silence in mid-body).
"""

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HANG_SECONDS = 3.0
_CODES = {"503": (503, "SlowDown"), "429": (429, "TooManyRequests"), "500": (500, "InternalError")}


@dataclass
class FaultyProxy:
    """Where it listens, what it does, what it saw."""

    upstream: str
    faults: Callable[[], str] = lambda: "ok"
    refuses: Callable[[str, Message], tuple[int, str] | None] = lambda method, headers: None
    """Status and code with which a request is refused for its method and headers."""
    before: Callable[[str], None] = lambda method: None
    """Called before a request is passed on."""
    answers: Callable[[str, bytes, Message], bool] = lambda path, body, headers: False
    """Does what a request asks for by itself: it is not passed on, the reply is 200."""
    endpoint: str = ""
    served: list[tuple[str, str | None, str]] = field(default_factory=list)
    """(method, Range header, fault) of every request."""


@contextmanager
def faulty_proxy(upstream: str, certificate: ssl.SSLContext | None = None) -> Iterator[FaultyProxy]:
    """Start one, which speaks TLS where it is given a certificate."""
    proxy = FaultyProxy(upstream=upstream)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": proxy}))
    server.daemon_threads = True
    if certificate is not None:
        server.socket = certificate.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda request, client_address: None  # who does not trust it hangs up
    scheme = "http" if certificate is None else "https"
    proxy.endpoint = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultyProxy
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.proxy.faults()
        self.proxy.served.append((self.command, self.headers.get("Range"), fault))
        refused = self.proxy.refuses(self.command, self.headers)
        if refused:
            self._refuse(*refused)
            return
        self.proxy.before(self.command)
        if self.proxy.answers(self.path, body, self.headers):
            self.send_response(200)
            self.send_header("ETag", '"0"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault in _CODES:
            self._refuse(*_CODES[fault])
            return
        connection = HTTPConnection(urlsplit(self.proxy.upstream).netloc, timeout=20)
        # Host stays as the client signed it
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        reply = connection.getresponse()
        data = b"" if self.command == "HEAD" else reply.read()
        connection.close()
        self._answer(reply, data, fault)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve

    def _answer(self, reply: HTTPResponse, data: bytes, fault: str) -> None:
        self.send_response_only(reply.status, reply.reason)
        for name, value in reply.headers.items():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        length = reply.headers.get("Content-Length") if self.command == "HEAD" else len(data)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        if fault == "ok" or not data:
            self.wfile.write(data)
            return
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        if fault == "hang":
            time.sleep(HANG_SECONDS)
        if fault == "reset":
            reset = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        self.close_connection = True
        with suppress(OSError):
            if fault != "reset":
                self.connection.shutdown(socket.SHUT_RDWR)
            self.connection.close()

    def _refuse(self, status: int, code: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        body = b"" if self.command == "HEAD" else text
        self.send_response_only(status, code)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()
