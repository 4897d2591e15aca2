"""Credentials stay out of logs, MLflow and manifests."""

from urllib.parse import urlsplit, urlunsplit


def redact(uri: str) -> str:
    """Hide user and password of a URL."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rsplit("@", 1)[1]))
