"""Explain in one line why MLflow cannot be used, and what to do."""

import os
import tempfile
from pathlib import Path

from pipelines.cli.redaction import redact, scrub
from storage.proxies import proxy_hint

SQLITE = "sqlite:///"
_LOGIN = ("UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED")
_NO_LOGIN = ("error code 401", "error code 403", "401 Unauthorized", "403 Forbidden")


def reason_of(error: Exception) -> str:
    """Return MLflow's own message, in one line and without credentials."""
    return scrub(error)[:200]


def advice_for(error: Exception, uri: str) -> str:
    """Return what to do about an error that MLflow raised for a tracking URI."""
    message = str(error)
    if getattr(error, "error_code", None) in _LOGIN or any(word in message for word in _NO_LOGIN):
        return (
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN,"
            " to a login that may write there"
        )
    if "database is locked" in message:
        return "other runs write to it: try again, or use a server for several runs at once"
    if "schema" in message and "mlflow db upgrade" in message:
        return "run the command it names, or use another --place.mlflow-uri"
    start = "start the server, or set --place.mlflow-uri (sqlite:///mlflow.db needs none)"
    hint = proxy_hint(uri)
    return f"{hint}; else {start}" if hint else start


def trouble_with_database(uri: str) -> str | None:
    """Return why an SQLite file cannot be written; None if it can, or if the URI is a server.

    MLflow itself would retry for minutes.
    """
    if not uri.startswith(SQLITE):
        return None
    path = Path(uri.removeprefix(SQLITE))
    folder = path.absolute().parent
    try:
        if path.exists():
            os.close(os.open(path, os.O_RDWR))
        elif not folder.exists():
            return f"{redact(uri)}: there is no folder {folder} - create it, or set {_ELSEWHERE}"
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".vit-on-ray-"):  # its journal's place
            pass
    except OSError as error:
        what = path if path.exists() and not os.access(path, os.W_OK) else folder
        return f"{what} cannot be written ({error.strerror}) - set {_ELSEWHERE}"
    return None


_ELSEWHERE = "--place.mlflow-uri to a file in a writable folder, or to a server"
