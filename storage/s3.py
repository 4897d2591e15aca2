"""ObjectStore on S3 or a server with its API (AWS_ENDPOINT_URL).

Credentials come from the environment. There are two layers of retries, both bounded: botocore
repeats a request that got no usable reply (5xx, throttling, refused connection), and a body that
broke off is resumed (`s3_reads`).
"""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3.exceptions
from boto3.s3.transfer import TransferConfig
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from storage.errors import (
    NotWritable,
    ObjectExists,
    ObjectNotFound,
    StorageError,
    Unavailable,
)
from storage.s3_client import Checksums
from storage.s3_errors import ANY_FAILURE, CONFLICTS, UNDECIDED, code_of
from storage.s3_probe import reason_of_refusal
from storage.s3_reads import PART_BYTES, S3Reads
from storage.store import conditional_writes, probe

_CONFLICT_ATTEMPTS = 6


class S3Store(S3Reads):
    """Objects are keys below `prefix` of `bucket`. Picklable."""

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Write by one PUT; with `if_absent` a conditional one."""
        if not if_absent:
            self._put(key, data, f"writing {len(data)} bytes")
        elif conditional_writes():
            self._put_absent(key, data)
        elif not self.exists(key):
            self._put(key, data, f"writing {len(data)} bytes")
        else:
            self._compare(key, data)

    def _put(self, key: str, data: bytes, doing: str, **condition: str) -> None:
        try:
            self._client.ask(
                lambda client: client.put_object(
                    Bucket=self.bucket, Key=self._key(key), Body=data, **condition
                )
            )
        except ANY_FAILURE as error:
            if condition and code_of(error) in CONFLICTS | UNDECIDED:
                raise _Conflict(error) from error
            self._explain(error, key, doing)

    def _put_absent(self, key: str, data: bytes) -> None:
        """Write conditionally; try again if another write is in progress or was just undone."""
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, _Conflict)),
            wait=wait_exponential_jitter(multiplier=0.1, max=2.0),
            stop=stop_after_attempt(_CONFLICT_ATTEMPTS),
            reraise=True,
        )
        doing = f"writing {len(data)} bytes conditionally"
        try:
            for attempt in retrying:
                with attempt:
                    self._put_absent_once(key, data, doing)
        except _Conflict as conflict:
            self._explain(conflict.error, key, doing)

    def _put_absent_once(self, key: str, data: bytes, doing: str) -> None:
        try:
            self._put(key, data, doing, IfNoneMatch="*")
        except _Conflict as conflict:
            if code_of(conflict.error) in UNDECIDED:
                raise
            try:
                self._compare(key, data)
            except ObjectNotFound:
                raise conflict from conflict.error

    def _compare(self, key: str, data: bytes) -> None:
        if self.read(key) != data:
            raise ObjectExists(f"{self.uri}/{key} already exists with other bytes")

    def upload(self, key: str, local_path: str | Path) -> None:
        """Upload a local file, in parts of 16 MiB if it is large."""
        config = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES)
        try:
            self._client.ask(
                lambda client: client.upload_file(
                    str(local_path), self.bucket, self._key(key), Config=config
                )
            )
        except boto3.exceptions.S3UploadFailedError as error:
            self._explain(error.__context__ or error, key, "uploading a file")
        except ANY_FAILURE as error:
            self._explain(error, key, "uploading a file")

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys that start with `prefix`."""
        whole = f"{self.prefix}/{prefix}" if self.prefix else prefix
        cut = len(self.prefix) + 1 if self.prefix else 0
        token = ""
        while True:
            page = self._list_page(prefix, whole, token)
            for item in page.get("Contents", ()):
                yield item["Key"][cut:]
            before, token = token, str(page.get("NextContinuationToken", ""))
            if not page.get("IsTruncated"):
                return
            if token in ("", before):  # otherwise a listing would be cut short or never end
                raise Unavailable(
                    f"{self.uri}: {self._server()} says that more keys follow, but gives no new"
                    " token for the next page"
                )

    def _list_page(self, prefix: str, whole: str, token: str) -> Any:
        more = {"ContinuationToken": token} if token else {}
        try:
            return self._client.ask(
                lambda client: client.list_objects_v2(Bucket=self.bucket, Prefix=whole, **more)
            )
        except ANY_FAILURE as error:
            self._explain(error, prefix, "listing")

    def delete(self, key: str) -> None:
        """Remove an object if it exists."""
        try:
            self._client.ask(
                lambda client: client.delete_object(Bucket=self.bucket, Key=self._key(key))
            )
        except ANY_FAILURE as error:
            self._explain(error, key, "deleting")

    def sweep(self, folder: str = "") -> None:
        """Do nothing: unfinished uploads are removed by a lifecycle rule of the bucket."""

    def check_writable(self) -> None:
        """Write, read and delete a probe, and check that a second writer is refused.

        It takes seconds, because it retries less than other requests.
        """

        def impatient(checksums: Checksums | None = None) -> S3Store:
            return S3Store(
                self.bucket,
                self.prefix,
                request_attempts=2,
                connect_seconds=2.0,
                read_seconds=4.0,
                checksums=checksums,
            )

        name = f".probe-{uuid.uuid4().hex}"
        try:
            probe(impatient(), name)
        except NotWritable:
            raise
        except StorageError as error:
            reason = reason_of_refusal(error, name, impatient(), impatient("when_required"))
            raise NotWritable(
                f"storage root {self.uri} cannot be written: {error}{reason}"
            ) from error


class _Conflict(Exception):
    """Another writer of the same key was faster, or is writing now."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error
