"""A small Hugging Face Hub on loopback: what the real client asks of it, for files of a folder."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def running_hub(repositories: dict[str, Path]) -> Iterator[str]:
    """Serve folders as repositories, ORG/NAME -> folder; yield the endpoint."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            for name, folder in repositories.items():
                if path in (f"/api/models/{name}", f"/api/models/{name}/revision/{COMMIT}"):
                    self._send(self._info(name, folder), {}, body=body)
                    return
                if path.startswith(f"/api/models/{name}/"):
                    self._send(b"{}", {"X-Error-Code": "RevisionNotFound"}, body=body, status=404)
                    return
                file = folder / path.removeprefix(f"/{name}/resolve/{COMMIT}/")
                if path.startswith(f"/{name}/resolve/{COMMIT}/") and file.is_file():
                    data = file.read_bytes()
                    etag = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
                    self._send(data, etag | {"X-Repo-Commit": COMMIT}, body=body)
                    return
            self._send(b"{}", {"X-Error-Code": "RepoNotFound"}, body=body, status=404)

        def _info(self, name: str, folder: Path) -> bytes:
            files = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
            return json.dumps({"id": name, "sha": COMMIT, "siblings": files}).encode()

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
