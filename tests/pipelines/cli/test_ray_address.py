"""RAY_ADDRESS is judged before Ray tries it, in seconds and in one line."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest

from cluster.errors import BadPlace
from pipelines.cli import ray_address
from pipelines.cli.ray_address import LOCAL, Answer, ask_head, read_address, variables_of_head

TOKEN = "0" * 64


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setenv("RAY_ADDRESS", text)


@pytest.mark.parametrize("text", ["", " ", "local"])
def test_an_empty_address_is_an_unset_one(text: str, address: Callable[[str], None]) -> None:
    address(text)
    assert read_address() == LOCAL


def test_an_unset_address_is_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert read_address() == LOCAL


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("localhost", "wanted HOST:PORT"),
        ("localhost:", "wanted HOST:PORT"),
        (":6379", "wanted HOST:PORT"),
        ("localhost:99999", "wanted HOST:PORT"),
        ("redis://localhost:6379", "wanted HOST:PORT"),
        ("ray://127.0.0.1:10001", "Ray Client"),
        ("http://127.0.0.1:8265", "ray job submit"),
    ],
)
def test_an_address_that_cannot_work_is_named(
    text: str, part: str, address: Callable[[str], None]
) -> None:
    address(text)
    with pytest.raises(BadPlace, match=r"RAY_ADDRESS=.*unset RAY_ADDRESS") as caught:
        read_address()
    assert f"RAY_ADDRESS={text}" in str(caught.value)
    assert part in str(caught.value)


def test_auto_without_a_ray_says_so(
    address: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_runs(address: str) -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address", none_runs)
    address("auto")
    with pytest.raises(BadPlace, match="RAY_ADDRESS=auto, but no Ray runs here"):
        read_address()


@pytest.fixture
def http_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_web_server_is_no_head(http_server: str) -> None:
    with pytest.raises(BadPlace, match=f"{http_server} is not a Ray head - use the port"):
        variables_of_head(http_server)


def test_a_port_that_never_speaks_is_no_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_address, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert ask_head(f"127.0.0.1:{silent.getsockname()[1]}") is Answer.OTHER


class Heads(grpc.GenericRpcHandler):
    """Answers as a head does, with a token or without."""

    def __init__(self, token: str | None) -> None:
        self.token = token

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        details = handler_call_details
        if details.method != "/ray.rpc.NodeInfoGcsService/CheckAlive":
            return None
        sent = dict(details.invocation_metadata).get("authorization")

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if self.token is not None and sent != f"Bearer {self.token}":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def head() -> Iterator[Callable[[str | None], str]]:
    servers: list[grpc.Server] = []

    def start(token: str | None) -> str:
        server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Heads(token)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home of its own, nothing in the environment."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def with_token(home: Path, token: str) -> None:
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(token)


def test_a_head_without_a_token_is_asked_without_one(
    head: Callable[[str | None], str], home: Path
) -> None:
    with_token(home, TOKEN)  # a driver with one would demand it of the workers
    assert variables_of_head(head(None)) == {}


def test_a_head_that_wants_the_token_of_this_home_gets_it(
    head: Callable[[str | None], str], home: Path
) -> None:
    with_token(home, TOKEN)
    assert variables_of_head(head(TOKEN)) == {"RAY_AUTH_MODE": "token"}


@pytest.mark.parametrize("token", [None, "1" * 64])
def test_a_head_that_takes_no_token_of_ours_says_what_to_set(
    token: str | None, head: Callable[[str | None], str], home: Path
) -> None:
    if token:
        with_token(home, token)
    with pytest.raises(
        BadPlace, match="wants a token and accepts none found here - set RAY_AUTH_MODE"
    ):
        variables_of_head(head(TOKEN))


def test_the_mode_of_the_environment_is_respected(
    head: Callable[[str | None], str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_token(home, TOKEN)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(BadPlace, match="wants a token"):
        variables_of_head(head(TOKEN))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert variables_of_head(head(TOKEN)) == {}
