"""Check RAY_ADDRESS within seconds: is it valid, and does a Ray head answer there?

Ray itself tries an address for minutes, and some wrong ones forever.
"""

import os
import socket
from enum import Enum

import grpc

from cluster.errors import BadPlace
from pipelines.cli.ray_token import MODE, find_token

LOCAL, AUTO = "local", "auto"
REACH_SECONDS, ANSWER_SECONDS = 5.0, 20.0
UNSET = "unset RAY_ADDRESS to run on this machine alone"
_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"  # `ray health-check` asks the same


class Answer(Enum):
    """Reply of a port that was asked whether it is a Ray head."""

    HEAD = "a Ray head"
    REFUSES = "a Ray head that requires a token, or a different one"
    OTHER = "no Ray head"


def read_address() -> str:
    """Return `local`, or the HOST:PORT that RAY_ADDRESS stands for. Empty counts as unset.

    Raises:
        BadPlace: RAY_ADDRESS is none of `local`, `auto` and HOST:PORT, or it is `auto` and no Ray
            runs on this machine.
    """
    address = os.environ.get("RAY_ADDRESS", "").strip()
    if address in ("", LOCAL):
        return LOCAL
    if address == AUTO:
        return _running_here()
    if address.startswith("ray://"):
        raise BadPlace(
            f"RAY_ADDRESS={address} uses Ray Client, which cannot train - on a node of the cluster"
            f" set HOST:6379 or auto; from elsewhere use `ray job submit`; or {UNSET}"
        )
    if address.startswith(("http://", "https://")):
        raise BadPlace(
            f"RAY_ADDRESS={address} is a job server - use `ray job submit`, or on a node of the"
            f" cluster set HOST:6379 or auto; or {UNSET}"
        )
    host, _, port = address.rpartition(":")
    if "://" in address or not host.strip("[]") or not port.isdigit() or not 0 < int(port) < 65536:
        raise BadPlace(
            f"RAY_ADDRESS={address}: wanted HOST:PORT (a head listens on 6379) or auto; or {UNSET}"
        )
    return address


def _running_here() -> str:
    """Return HOST:PORT of the Ray that was started last on this machine."""
    from ray._private.services import (
        canonicalize_bootstrap_address,
    )  # there is no public function for it

    try:
        address = canonicalize_bootstrap_address(AUTO)
    except ConnectionError:
        address = None
    if address is None:
        raise BadPlace(f"RAY_ADDRESS=auto, but no Ray runs here - `ray start --head`, or {UNSET}")
    return address


def check_reachable(address: str) -> None:
    """Try for a few seconds to connect to HOST:PORT.

    Raises:
        BadPlace: nothing answers there.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise BadPlace(
            f"nothing answers at RAY_ADDRESS={address} ({error}) - start Ray there, or {UNSET}"
        ) from None


def variables_of_head(address: str) -> dict[str, str]:
    """Return the environment variables a driver needs to connect: RAY_AUTH_MODE, if a token is.

    Raises:
        BadPlace: nothing answers at HOST:PORT, it is not a Ray head, or it accepts no token that
            this machine has.
    """
    check_reachable(address)
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return {}  # Ray reads the certificates, and reports what is wrong with them
    mode = os.environ.get(MODE)
    token = find_token() if mode is not None and mode.lower() == "token" else None
    answer = ask_head(address, token)
    if answer is Answer.HEAD:
        return {}
    if answer is Answer.OTHER:
        raise BadPlace(
            f"RAY_ADDRESS={address} is not a Ray head - use the port of `ray start --head` (6379),"
            f" not the dashboard's (8265) or Ray Client's (10001); or {UNSET}"
        )
    token = find_token() if mode is None else None
    if token is not None and ask_head(address, token) is Answer.HEAD:
        return {MODE: "token"}
    raise BadPlace(
        f"the Ray head at RAY_ADDRESS={address} wants a token and accepts none found here - set"
        " RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or ~/.ray/auth_token to the cluster's token"
    )


def ask_head(address: str, token: str | None = None) -> Answer:
    """Ask HOST:PORT whether it is a Ray head, with a token or without."""
    metadata = (("authorization", f"Bearer {token}"),) if token else None
    options = [("grpc.enable_http_proxy", 0)]  # like Ray's own channels
    with grpc.insecure_channel(address, options) as channel:
        ask = channel.unary_unary(_ALIVE)  # no serializer: the empty request is valid
        try:
            ask(b"", timeout=ANSWER_SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            code = error.code()  # type: ignore[attr-defined]  # grpc.Call's, missing in the stubs
            refused = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
            return Answer.REFUSES if code in refused else Answer.OTHER
    return Answer.HEAD
