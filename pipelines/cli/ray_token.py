"""The token by which a script and its Ray know each other.

Ray 2.60 gives every local cluster a token and writes it into `~/.ray/auth_token`. From then on
`ray start --head` demands that token on this machine, `ray job submit` does not send it unless
RAY_AUTH_MODE=token is set, and a home that cannot be written ends the script. So a Ray that a
script starts for itself gets a token in its environment: as safe, and gone when the script ends.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def find_token() -> str | None:
    """The token that Ray itself would find: in the environment, in a file that it names, at home.

    A file that cannot be read counts as none: Ray says so itself where it needs one.
    """
    if os.environ.get(TOKEN):
        return os.environ[TOKEN]
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: there is no home
        default = Path.home() / ".ray" / "auth_token"
        text = Path(os.environ.get(TOKEN_PATH) or default).read_text()
        return text.strip() or None
    return None


def variables_of_own_ray() -> dict[str, str]:
    """What a Ray that this process starts needs, so that it writes no token into the home."""
    if os.environ.get(MODE, "token").lower() != "token":
        return {}
    if find_token() is not None:
        return {MODE: "token"}
    return {MODE: "token", TOKEN: secrets.token_hex(32)}


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for this process, its Ray and their children, and take them back afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    _read_again()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _read_again()


def _read_again() -> None:
    """Let Ray forget what it read of these variables when it was imported, or last used."""
    import ray._raylet as raylet  # there is no public way in 2.60

    raylet.Config.initialize("")  # type: ignore[attr-defined]  # compiled, without stubs
    raylet.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]
