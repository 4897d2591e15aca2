"""Parse URIs: `s3://bucket/prefix`, `file:///path` or a local path; anything else is refused.

Refusing matters: webdataset runs `pipe:` URLs in a shell, and a typo such as `s3:/bucket` would
otherwise become a directory of that name.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from storage.errors import BadUri

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):")
_BUCKET = re.compile(r"^[a-z0-9][a-z0-9._-]{0,254}$")
_ACCEPTED = "accepted: s3://bucket/prefix, file:///absolute/path, or a local path"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A parsed URI. `bucket` is None for the local file system."""

    bucket: str | None
    """S3 bucket, or None."""
    path: str
    """S3 key prefix without leading or trailing slash, or an absolute local path."""

    def __str__(self) -> str:
        if self.bucket is None:
            return self.path
        return f"s3://{self.bucket}/{self.path}" if self.path else f"s3://{self.bucket}"


def parse(uri: str) -> Place:
    """Parse a URI; local paths become absolute, because tasks run in other working directories.

    Raises BadUri. The message contains the scheme, never the whole text, which may have a password.
    """
    if not uri or "\x00" in uri:
        raise BadUri(f"the URI is empty; {_ACCEPTED}")
    found = _SCHEME.match(uri)
    if found is None:
        return Place(bucket=None, path=str(Path(uri).expanduser().absolute()))
    scheme = found.group(1).lower()
    if scheme == "file":
        return _parse_file(uri)
    if scheme == "s3":
        return _parse_s3(uri)
    raise BadUri(f"scheme {scheme!r} is not supported; {_ACCEPTED}")


def _parse_file(uri: str) -> Place:
    parts = urlsplit(uri)
    if "?" in uri or "#" in uri:  # a URL ends its path there: /data/run#1 would be /data/run
        raise BadUri("'?' and '#' end the path of a file: URL; write %3F and %23, or omit file:")
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise BadUri(f"file: needs an absolute path on this machine (file:///path); {_ACCEPTED}")
    return Place(bucket=None, path=str(Path(unquote(parts.path)).absolute()))


def _parse_s3(uri: str) -> Place:
    rest = uri[len("s3:") :]
    if not rest.startswith("//"):
        raise BadUri(f"s3: needs two slashes (s3://bucket/prefix); {_ACCEPTED}")
    bucket, _, prefix = rest[2:].partition("/")
    if "@" in bucket:
        raise BadUri("credentials do not belong into a URI: use the AWS environment variables")
    if not _BUCKET.match(bucket):
        raise BadUri(f"{bucket!r} is not a bucket name; {_ACCEPTED}")
    return Place(bucket=bucket, path=_clean_key(prefix))


def _clean_key(key: str) -> str:
    parts = [part for part in key.split("/") if part]
    if any(part in (".", "..") for part in parts):
        raise BadUri(f"{key!r} has a '.' or '..' part, which is not allowed in a key")
    return "/".join(parts)


def join(uri: str, *parts: str) -> str:
    """Append parts to a URI: join("s3://b/runs", "x", "manifest.json") ->
    "s3://b/runs/x/manifest.json"."""
    place = parse(uri)
    tail = _clean_key("/".join(parts))
    head = place.path.rstrip("/") if place.bucket is None else place.path
    if not tail:
        return str(place)
    return str(
        Place(bucket=place.bucket, path=f"{head}/{tail}" if head or not place.bucket else tail)
    )
