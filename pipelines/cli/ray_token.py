"""The authentication token between a script and its Ray.

Ray 2.60 gives every local cluster a token and writes it into `~/.ray/auth_token`. From then on
`ray start --head` demands that token on this machine, `ray job submit` does not send it unless
RAY_AUTH_MODE=token is set, and a script whose home is not writable fails. So a Ray that a script
starts gets its token from the environment instead: as safe, and gone when the script ends.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from cluster.environment import set_variables

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def find_token() -> str | None:
    """Return the token that Ray itself would find: in the environment, a file named there, or home.

    An unreadable file counts as no token: Ray reports it where it needs one.
    """
    if os.environ.get(TOKEN):
        return os.environ[TOKEN]
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: no home folder
        default = Path.home() / ".ray" / "auth_token"
        text = Path(os.environ.get(TOKEN_PATH) or default).read_text()
        return text.strip() or None
    return None


def variables_of_own_ray() -> dict[str, str]:
    """Return environment variables with which a local Ray writes no token file into the home."""
    if os.environ.get(MODE, "token").lower() != "token":
        return {}
    if find_token() is not None:
        return {MODE: "token"}
    return {MODE: "token", TOKEN: secrets.token_hex(32)}


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for this process, its Ray and their children; restore them afterwards."""
    try:
        with set_variables(variables):
            _read_again()
            yield
    finally:
        _read_again()


def _read_again() -> None:
    """Make Ray read these variables again; it caches them at import and at first use."""
    import ray._raylet as raylet  # there is no public way in 2.60

    raylet.Config.initialize("")  # type: ignore[attr-defined]  # compiled, without stubs
    raylet.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]
