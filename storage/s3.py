"""ObjectStore on S3 or anything that speaks it (AWS_ENDPOINT_URL). Credentials come from the
environment.

Two layers of retry, both bounded: botocore repeats a request that got no usable reply (5xx,
throttling, refused connection), and `read_range` resumes a body that broke off at the byte it
reached, asking for the same ETag, so that two versions of an object are never glued together.
"""

import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import boto3.exceptions
import botocore.exceptions as botocore_errors
import urllib3.exceptions as urllib3_errors
from boto3.s3.transfer import TransferConfig
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from storage.errors import (
    AccessDenied,
    BadUri,
    NotWritable,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    StorageError,
    Unavailable,
)
from storage.s3_client import shared_client
from storage.store import Traffic, probe

_READ_CHUNK_BYTES = 64 << 10  # what a broken body costs: urllib3 drops the chunk it was filling
_PART_BYTES = 16 << 20
_BODY_ATTEMPTS = 8
_BROKEN_BODY = (
    botocore_errors.HTTPClientError,  # connection closed, read timed out
    botocore_errors.IncompleteReadError,
    botocore_errors.ResponseStreamingError,
    urllib3_errors.HTTPError,
    ConnectionError,
    TimeoutError,
)
_NOT_FOUND = {"404", "NoSuchKey", "NotFound"}
_ANY_FAILURE = (botocore_errors.BotoCoreError, botocore_errors.ClientError, *_BROKEN_BODY)


class S3Store:
    """Objects are keys below `prefix` of `bucket`. Picklable: the client is made where it is
    used."""

    parallel_reads = 8

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        request_attempts: int = 5,
        connect_seconds: float = 3.0,
        read_seconds: float = 30.0,
    ) -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self.request_attempts = request_attempts
        self.connect_seconds = connect_seconds
        self.read_seconds = read_seconds
        self.traffic = Traffic()
        self._made: Any = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_made": None}

    @property
    def uri(self) -> str:
        """s3://bucket/prefix."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def _client(self) -> Any:
        if self._made is None:
            try:
                self._made = shared_client(
                    self.request_attempts, self.connect_seconds, self.read_seconds
                )
            except ValueError as error:  # botocore's word for a malformed AWS_ENDPOINT_URL
                raise BadUri(
                    f"{self.uri}: AWS_ENDPOINT_URL is no URL such as http://host:port"
                ) from error
        return self._made

    def read(self, key: str) -> bytes:
        """Whole object."""
        return self.read_range(key, 0, self.size(key))

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Exactly the bytes [start, stop), resumed where a body broke off."""
        buffer = bytearray()
        etag: list[str] = []
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, _BROKEN_BODY)),
            wait=wait_exponential_jitter(multiplier=0.05, max=2.0),
            stop=stop_after_attempt(_BODY_ATTEMPTS),
            reraise=True,
        )
        try:
            for attempt in retrying:
                with attempt:
                    self._read_on(key, start, stop, buffer, etag)
        except _ANY_FAILURE as error:
            self._explain(error, key, f"reading bytes {start}..{stop}, {len(buffer)} of them came")
        return bytes(buffer)

    def _read_on(self, key: str, start: int, stop: int, buffer: bytearray, etag: list[str]) -> None:
        """Append to `buffer` what is still missing of [start, stop)."""
        if start + len(buffer) >= stop:
            return
        same = {"IfMatch": etag[0]} if etag else {}
        span = f"bytes={start + len(buffer)}-{stop - 1}"
        self.traffic.add(requests=1)
        reply = self._client.get_object(Bucket=self.bucket, Key=self._key(key), Range=span, **same)
        if etag and reply["ETag"] != etag[0]:  # a server that overlooks IfMatch
            raise ObjectChanged(f"{self.uri}/{key} was replaced while it was read")
        etag[:] = [reply["ETag"]]
        for chunk in reply["Body"].iter_chunks(_READ_CHUNK_BYTES):
            buffer += chunk
            self.traffic.add(count=len(chunk))
        if start + len(buffer) != stop:
            raise ObjectChanged(
                f"{self.uri}/{key} ends at byte {start + len(buffer)}, bytes {start}..{stop} were "
                "wanted: "
                "it is shorter than its index says"
            )

    def size(self, key: str) -> int:
        """Bytes of an object."""
        try:
            return self._client.head_object(Bucket=self.bucket, Key=self._key(key))["ContentLength"]
        except _ANY_FAILURE as error:
            self._explain(error, key, "asking for its size")

    def exists(self, key: str) -> bool:
        """Whether there is an object of that key."""
        try:
            self.size(key)
        except ObjectNotFound:
            return False
        return True

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """One PUT; with `if_absent` a conditional one."""
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        try:
            self._client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data, **condition)
        except _ANY_FAILURE as error:
            if if_absent and _code(error) in (
                "412",
                "PreconditionFailed",
                "ConditionalRequestConflict",
            ):
                if self.read(key) == data:
                    return
                raise ObjectExists(f"{self.uri}/{key} is already there with other bytes") from None
            self._explain(error, key, f"writing {len(data)} bytes")

    def upload(self, key: str, local_path: str | Path) -> None:
        """Copy a file there, in parts of 16 MiB where it is large."""
        config = TransferConfig(multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES)
        try:
            self._client.upload_file(str(local_path), self.bucket, self._key(key), Config=config)
        except boto3.exceptions.S3UploadFailedError as error:
            self._explain(error.__context__ or error, key, "uploading a file")
        except _ANY_FAILURE as error:
            self._explain(error, key, "uploading a file")

    def download(self, key: str, local_path: str | Path) -> None:
        """Copy an object to a local file, which appears whole or not at all."""
        target = Path(local_path)
        temporary = target.with_name(f".partial-{uuid.uuid4().hex}")
        total = self.size(key)
        try:
            with open(temporary, "wb") as file, ThreadPoolExecutor(self.parallel_reads) as pool:

                def copy(start: int) -> None:
                    data = self.read_range(key, start, min(start + _PART_BYTES, total))
                    os.pwrite(file.fileno(), data, start)

                for _ in pool.map(copy, range(0, total, _PART_BYTES)):
                    pass
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def local(self, key: str, folder: Path) -> Path:
        """A copy in `folder`, under the last part of its name."""
        path = folder / key.rpartition("/")[2]
        self.download(key, path)
        return path

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys that start with `prefix`."""
        whole = f"{self.prefix}/{prefix}" if self.prefix else prefix
        cut = len(self.prefix) + 1 if self.prefix else 0
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=whole
        )
        try:
            for page in pages:
                for item in page.get("Contents", ()):
                    yield item["Key"][cut:]
        except _ANY_FAILURE as error:
            self._explain(error, prefix, "listing")

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        try:
            self._client.delete_object(Bucket=self.bucket, Key=self._key(key))
        except _ANY_FAILURE as error:
            self._explain(error, key, "deleting")

    def check_writable(self) -> None:
        """Write, read and delete a probe, with short patience."""
        impatient = S3Store(
            self.bucket, self.prefix, request_attempts=2, connect_seconds=2.0, read_seconds=4.0
        )
        try:
            probe(impatient, f".probe-{uuid.uuid4().hex}")
        except NotWritable:
            raise
        except StorageError as error:
            raise NotWritable(f"storage root {self.uri} cannot be written: {error}") from error

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _explain(self, error: BaseException, key: str, doing: str) -> NoReturn:
        """Raise ours for theirs. Only codes and class names: a server's own text may echo a
        request."""
        where = f"{self.uri}/{key}"
        code = _code(error)
        if isinstance(
            error, botocore_errors.NoCredentialsError | botocore_errors.PartialCredentialsError
        ):
            raise AccessDenied(
                f"{where}: no AWS credentials found. Set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, "
                "AWS_PROFILE, or give the machine a role"
            ) from None
        if code == "NoSuchBucket":
            raise ObjectNotFound(
                f"{where}: there is no bucket {self.bucket!r} at {self._server()}. Create it or "
                "name another"
            ) from None
        if code in _NOT_FOUND:
            raise ObjectNotFound(f"no object {where}") from None
        if code in (
            "403",
            "AccessDenied",
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "ExpiredToken",
        ):
            raise AccessDenied(
                f"{where}: {self._server()} refused {doing} ({code}). Check the credentials and "
                "the bucket's policy"
            ) from None
        if code in ("412", "PreconditionFailed"):
            raise ObjectChanged(f"{where} was replaced while it was read") from None
        if code in ("416", "InvalidRange"):
            raise ObjectChanged(f"{where} is shorter than its index says ({doing})") from None
        raise Unavailable(
            f"{where}: {doing} failed with {code or type(error).__name__} at {self._server()}, "
            f"after {self.request_attempts} attempts"
        ) from error

    def _server(self) -> str:
        found = urlsplit(self._made.meta.endpoint_url if self._made is not None else "")
        return found.netloc.rpartition("@")[2] or "S3"  # a URL may carry a password


def _code(error: BaseException) -> str:
    if isinstance(error, botocore_errors.ClientError):
        return str(error.response.get("Error", {}).get("Code", ""))
    return ""
