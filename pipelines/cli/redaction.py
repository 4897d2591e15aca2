"""Keep credentials out of logs, MLflow and manifests."""

import os
import re
from urllib.parse import urlsplit, urlunsplit


def redact(uri: str) -> str:
    """Hide user and password of a URL."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rsplit("@", 1)[1]))


_SECRETS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "RAY_AUTH_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "HF_TOKEN",
)


_USERINFO = re.compile(r"//[^/@\s]+@")


def scrub(text: object, *, keep_spaces: bool = False) -> str:
    """Return text as one line, without credentials in URLs or secrets of the environment."""
    line = _USERINFO.sub("//***@", str(text) if keep_spaces else " ".join(str(text).split()))
    for name in _SECRETS:
        secret = os.environ.get(name, "")
        if len(secret) > 3:
            line = line.replace(secret, "***")
    return line
