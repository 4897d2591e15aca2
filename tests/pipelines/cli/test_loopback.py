"""MLflow on this machine, beside a proxy in the environment: it is asked without the proxy."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipelines.cli.loopback import bypass_proxy
from pipelines.tracking.advice import advice_for

PROXY = {"http_proxy": "http://127.0.0.1:9"}  # nothing listens there
HERE = "localhost,127.0.0.1,::1"


@pytest.mark.parametrize(
    ("environment", "no_proxy"),
    [
        ({}, None),
        ({"no_proxy": "a"}, None),
        (PROXY, HERE),
        ({"HTTPS_PROXY": "http://p:1"}, HERE),
        (PROXY | {"NO_PROXY": "a.example, 127.0.0.1"}, "a.example,127.0.0.1,localhost,::1"),
        (PROXY | {"no_proxy": "b", "NO_PROXY": "a"}, f"b,{HERE}"),
        (PROXY | {"no_proxy": "*"}, None),
    ],
)
def test_this_machine_is_added_to_what_needs_no_proxy(
    environment: dict[str, str], no_proxy: str | None
) -> None:
    wanted = {} if no_proxy is None else {"no_proxy": no_proxy, "NO_PROXY": no_proxy}
    assert bypass_proxy(environment) == wanted


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"here")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as http:
        threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


def test_requests_of_a_script_reach_a_server_on_this_machine(server: str) -> None:
    """By the HTTP client that MLflow uses."""
    code = f"import pipelines, requests; print(requests.get('{server}', timeout=20).text)"
    plain = {name: v for name, v in os.environ.items() if name.lower() != "no_proxy"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=plain | PROXY, capture_output=True, text=True
    )
    assert done.stdout == "here\n", done.stderr


def test_advice_about_a_server_names_the_proxy_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy.example:3128")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    said = advice_for(ConnectionError("refused"), "http://mlflow.example:5000")
    assert "proxy.example:3128" in said
    assert "mlflow.example needs none, add it to no_proxy" in said
    assert "secret" not in said
    assert "proxy" not in advice_for(ConnectionError("refused"), "http://127.0.0.1:5000")
