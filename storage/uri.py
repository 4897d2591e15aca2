"""Locations: `s3://bucket/prefix`, `file:///path` or a local path; other schemes are refused.

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
class Location:
    """A parsed URI: `bucket` is None for the local file system."""

    bucket: str | None
    """S3 bucket, or None."""
    path: str
    """S3 key prefix without leading or trailing slash, or an absolute local path."""

    def __str__(self) -> str:
        if self.bucket is None:
            return self.path
        return f"s3://{self.bucket}/{self.path}" if self.path else f"s3://{self.bucket}"


def parse(uri: str) -> Location:
    """Parse a location; local paths become absolute: tasks run in other working directories.

    Raises BadUri. The message contains the scheme, never the whole text, which may have a password.
    """
    if not uri or "\x00" in uri:
        raise BadUri(f"an empty location; {_ACCEPTED}")
    scheme_match = _SCHEME.match(uri)
    if scheme_match is None:
        return Location(bucket=None, path=str(Path(uri).expanduser().absolute()))
    scheme = scheme_match.group(1).lower()
    if scheme == "file":
        return _parse_file(uri)
    if scheme == "s3":
        return _parse_s3(uri)
    raise BadUri(f"scheme {scheme!r} is not supported; {_ACCEPTED}")


def _parse_file(uri: str) -> Location:
    parts = urlsplit(uri)
    if "?" in uri or "#" in uri:  # a URL ends its path there: /data/run#1 would be /data/run
        raise BadUri("'?' and '#' end the path of a file: URL; write %3F and %23, or omit file:")
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise BadUri(f"file: needs an absolute path on this machine (file:///path); {_ACCEPTED}")
    return Location(bucket=None, path=str(Path(unquote(parts.path)).absolute()))


def _parse_s3(uri: str) -> Location:
    rest = uri[len("s3:") :]
    if not rest.startswith("//"):
        raise BadUri(f"s3: needs two slashes (s3://bucket/prefix); {_ACCEPTED}")
    bucket, _, prefix = rest[2:].partition("/")
    if "@" in bucket:
        raise BadUri("credentials do not belong into a URI: use the AWS environment variables")
    if not _BUCKET.match(bucket):
        raise BadUri(f"{bucket!r} is not a bucket name; {_ACCEPTED}")
    return Location(bucket=bucket, path=_clean_key(prefix))


def _clean_key(key: str) -> str:
    parts = [part for part in key.split("/") if part]
    if any(part in (".", "..") for part in parts):
        raise BadUri(f"{key!r} has a '.' or '..' part, which is not allowed in a key")
    return "/".join(parts)


def join(uri: str, *parts: str) -> str:
    """Append parts to a location: join("s3://b/runs", "x", "manifest.json") ->
    "s3://b/runs/x/manifest.json"."""
    location = parse(uri)
    tail = _clean_key("/".join(parts))
    head = location.path.rstrip("/") if location.bucket is None else location.path
    if not tail:
        return str(location)
    return str(
        Location(
            bucket=location.bucket, path=f"{head}/{tail}" if head or not location.bucket else tail
        )
    )
