"""A small Hugging Face Hub on loopback: what the real client asks of it, for files of a folder."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.pipelines.support.hub_writes import COMMIT as PUSHED
from tests.pipelines.support.hub_writes import Refused, Writes

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def running_hub(repositories: dict[str, Path], writes: Writes | None = None) -> Iterator[str]:
    """Serve folders as repositories, ORG/NAME -> folder; yield the endpoint.

    With `writes` it takes pushes, and serves what was pushed.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_POST(self) -> None:
            endpoint = f"http://{self.headers['Host']}"
            try:
                assert writes is not None
                authorization = self.headers["Authorization"]
                answer = writes.post(self._path(), self._received(), authorization, endpoint)
                self._send(json.dumps(answer).encode(), {}, body=True)
            except Refused as refused:
                answer = json.dumps(refused.answer).encode()
                self._send(answer, {}, body=True, status=refused.status)

        def do_PUT(self) -> None:
            try:
                assert writes is not None
                writes.put(self._path(), self._received())
                self._send(b"", {}, body=True)
            except Refused as refused:
                self._send(b"{}", {}, body=True, status=refused.status)

        def _path(self) -> str:
            return self.path.partition("?")[0]

        def _received(self) -> bytes:
            """The body, whole or in chunks."""
            if self.headers["Transfer-Encoding"] != "chunked":
                return self.rfile.read(int(self.headers["Content-Length"] or 0))
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data

        def _answer(self, *, body: bool) -> None:
            path = self._path()
            pushed = writes.repositories() if writes else {}
            for name, folder in (repositories | pushed).items():
                commit = PUSHED if name in pushed else COMMIT
                if path in (f"/api/models/{name}", f"/api/models/{name}/revision/{commit}"):
                    self._send(self._info(name, folder, commit), {}, body=body)
                    return
                if path.startswith(f"/api/models/{name}/"):
                    self._send(b"{}", {"X-Error-Code": "RevisionNotFound"}, body=body, status=404)
                    return
                file = folder / path.removeprefix(f"/{name}/resolve/{commit}/")
                if path.startswith(f"/{name}/resolve/{commit}/") and file.is_file():
                    data = file.read_bytes()
                    etag = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
                    self._send(data, etag | {"X-Repo-Commit": commit}, body=body)
                    return
            self._send(b"{}", {"X-Error-Code": "RepoNotFound"}, body=body, status=404)

        def _info(self, name: str, folder: Path, commit: str) -> bytes:
            files = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
            return json.dumps({"id": name, "sha": commit, "siblings": files}).encode()

        def _send(
            self, data: bytes, headers: dict[str, str], *, body: bool, status: int = 200
        ) -> None:
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
