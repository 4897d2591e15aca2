"""Translate errors of boto3 and its HTTP client into this package's.

Messages repeat only codes and class names: a server's own text may contain parts of the request.
"""

import os
import ssl
from collections.abc import Iterator
from typing import Any, cast

import botocore.exceptions as botocore_errors
import urllib3.exceptions as urllib3_errors

from storage.errors import (
    AccessDenied,
    NoCredentials,
    ObjectChanged,
    ObjectNotFound,
    StorageError,
    Unavailable,
)
from storage.store import ONE_WRITER

BROKEN_BODY = (
    botocore_errors.HTTPClientError,  # connection closed, read timed out
    botocore_errors.IncompleteReadError,
    botocore_errors.ResponseStreamingError,
    urllib3_errors.HTTPError,
    ConnectionError,
    TimeoutError,
)
ANY_FAILURE = (botocore_errors.BotoCoreError, botocore_errors.ClientError, *BROKEN_BODY)
CONFLICTS = {"412", "PreconditionFailed"}
"""Error codes: a condition of the request does not hold."""
UNDECIDED = {"409", "ConditionalRequestConflict"}
"""Error codes: another conditional write is in progress, and which one is first is still open."""
_NOT_FOUND = {"404", "NoSuchKey", "NotFound"}
_REFUSED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
PLAIN_CHECKSUMS = (
    "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required and"
    " AWS_RESPONSE_CHECKSUM_VALIDATION=when_required"
)


def code_of(error: BaseException) -> str:
    """The server's error code; empty if it did not answer."""
    if isinstance(error, botocore_errors.ClientError):
        response = cast("dict[str, Any]", error.response)  # type: ignore[reportUnknownMemberType]
        return str(response.get("Error", {}).get("Code", ""))
    return ""


def explained(
    error: BaseException,
    where: str,
    doing: str,
    *,
    bucket: str,
    server: str,
    attempts: int,
    worked_before: bool,
    through: str = "",
) -> StorageError:
    """Translate an error.

    Args:
        error: the error of boto3.
        where: URI of the object.
        doing: what was tried, such as "listing".
        bucket: name of the bucket.
        server: host and port.
        attempts: number of attempts.
        worked_before: whether this process had working credentials before.
        through: what is said of the proxy that requests go through, if any.
    """
    code = code_of(error)
    kinds = botocore_errors.NoCredentialsError, botocore_errors.PartialCredentialsError
    if isinstance(error, kinds):
        if worked_before:
            return Unavailable(
                f"{where}: the machine's role gave no AWS credentials, although it did before"
            )
        return NoCredentials(
            f"{where}: no AWS credentials found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,"
            " AWS_PROFILE, or give the machine a role"
        )
    if code == "NoSuchBucket":
        return ObjectNotFound(
            f"{where}: there is no bucket {bucket!r} at {server}. Create it or choose another"
        )
    if code in _NOT_FOUND:
        return ObjectNotFound(f"no object {where}")
    if code in _REFUSED:
        return AccessDenied(
            f"{where}: {server} refused {doing} ({code}). Check the credentials and the bucket's"
            " policy" + (f"; {through}" if through and code == "403" else "")
        )
    if code in CONFLICTS:
        return ObjectChanged(f"{where} was replaced while it was read")
    if code in ("416", "InvalidRange"):
        return ObjectChanged(f"{where} is shorter than its index says ({doing})")
    if isinstance(error, botocore_errors.SSLError):
        return Unavailable(f"{where}: {_distrust(error, server)}")
    hint = f": {through}" if through else ""
    if "conditionally" in doing and code in ("501", "NotImplemented"):
        hint = (
            f": it has no conditional writes (If-None-Match). Use another server, or {ONE_WRITER}"
        )
    elif "Checksum" in code or "SHA256" in code or "aws-chunked" in str(error):
        hint = f": if the server does not know boto's checksums, {PLAIN_CHECKSUMS}"
    return Unavailable(
        f"{where}: {doing} failed with {code or type(error).__name__} at {server}, after"
        f" {attempts} attempts{hint}"
    )


def _distrust(error: BaseException, server: str) -> str:
    """Why an encrypted connection failed, and what to do."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = cause.verify_message
            return (
                f"the certificate of {server} is not trusted ({reason}). Set AWS_CA_BUNDLE to a"
                " file of the certificates that signed it (PEM)"
            )
    bundle = os.environ.get("AWS_CA_BUNDLE")
    if bundle and not os.path.exists(bundle):
        return f"AWS_CA_BUNDLE is {bundle}, but there is no such file"
    return (
        f"no encrypted connection to {server}: check that AWS_ENDPOINT_URL has http:// or https://"
        " as the server does, and that AWS_CA_BUNDLE, if set, is a file of certificates (PEM)"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and all errors that it was raised from or wraps."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner: list[object] = [one.__cause__, one.__context__, *one.args]
        inner += [getattr(one, "reason", None), *getattr(one, "kwargs", {}).values()]
        waiting += [each for each in inner if isinstance(each, BaseException)]
