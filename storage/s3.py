"""ObjectStore on S3 or a server with its API (AWS_ENDPOINT_URL).

Credentials come from the environment. There are two layers of retries, both bounded: botocore
repeats a request that got no usable reply (5xx, throttling, refused connection), and a body that
broke off is resumed at the byte it reached. All reads of one call ask for the same ETag, so that
two versions of an object are never mixed.
"""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import boto3.exceptions
from boto3.s3.transfer import TransferConfig
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from storage.errors import (
    NotWritable,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    StorageError,
    Unavailable,
)
from storage.local_files import arriving, write_all
from storage.s3_client import Checksums, Client
from storage.s3_errors import ANY_FAILURE, BROKEN_BODY, CONFLICTS, UNDECIDED, code_of, explained
from storage.s3_probe import reason_of_refusal
from storage.store import Traffic, conditional_writes, probe

_READ_CHUNK_BYTES = 64 << 10  # lost when a body breaks off: urllib3 drops the chunk it was filling
_PART_BYTES = 16 << 20
_BODY_ATTEMPTS = 8
_CONFLICT_ATTEMPTS = 6


class S3Store:
    """Objects are keys below `prefix` of `bucket`. Picklable."""

    parallel_reads = 8

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        request_attempts: int = 5,
        connect_seconds: float = 3.0,
        read_seconds: float = 30.0,
        checksums: Checksums | None = None,
    ) -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self.traffic = Traffic()
        self._client = Client(
            attempts=request_attempts,
            connect_seconds=connect_seconds,
            read_seconds=read_seconds,
            checksums=checksums,
        )

    @property
    def uri(self) -> str:
        """s3://bucket/prefix."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def read(self, key: str) -> bytes:
        """Read a whole object by one request without a range, so that it is of one version."""
        return self._read(key, _Reading(0, None), "reading it")

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Read exactly the bytes [start, stop); a body that breaks off is resumed there."""
        return self._read(key, _Reading(start, stop), f"reading bytes {start}..{stop}")

    def _read(self, key: str, reading: "_Reading", doing: str) -> bytes:
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, BROKEN_BODY)),
            wait=wait_exponential_jitter(multiplier=0.05, max=2.0),
            stop=stop_after_attempt(_BODY_ATTEMPTS),
            reraise=True,
        )
        try:
            for attempt in retrying:
                with attempt:
                    self._read_on(key, reading)
        except ANY_FAILURE as error:
            self._explain(error, key, f"{doing}, of which {len(reading.buffer)} arrived,")
        return bytes(reading.buffer)

    def _read_on(self, key: str, reading: "_Reading") -> None:
        """Append to the buffer what is still missing."""
        start, stop, buffer = reading.start, reading.stop, reading.buffer
        at = start + len(buffer)
        if stop is not None and at >= stop:
            return
        wanted = {"Range": f"bytes={at}-{stop - 1}"} if stop is not None else {}
        if reading.etag:
            wanted["IfMatch"] = reading.etag
        self.traffic.add(requests=1)
        reply = self._client.ask(
            lambda client: client.get_object(Bucket=self.bucket, Key=self._key(key), **wanted)
        )
        if reading.etag not in ("", reply["ETag"]):  # a server that ignores IfMatch
            raise ObjectChanged(f"{self.uri}/{key} was replaced while it was read")
        reading.etag = reply["ETag"]
        if stop is None:
            stop = reading.stop = int(reply["ContentLength"])
        for chunk in reply["Body"].iter_chunks(_READ_CHUNK_BYTES):
            buffer += chunk
            self.traffic.add(count=len(chunk))
        if start + len(buffer) != stop:
            raise ObjectChanged(
                f"{self.uri}/{key} ends at byte {start + len(buffer)}, wanted bytes"
                f" {start}..{stop}: it is shorter than its index says"
            )

    def size(self, key: str) -> int:
        """Size of an object in bytes."""
        return int(self._head(key)["ContentLength"])

    def _head(self, key: str) -> Any:
        try:
            return self._client.ask(
                lambda client: client.head_object(Bucket=self.bucket, Key=self._key(key))
            )
        except ANY_FAILURE as error:
            self._explain(error, key, "asking for its size")

    def exists(self, key: str) -> bool:
        """Whether there is an object with that key."""
        try:
            self.size(key)
        except ObjectNotFound:
            return False
        return True

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
        config = TransferConfig(multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES)
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

    def download(self, key: str, local_path: str | Path) -> None:
        """Copy one version of an object to a local file, which appears completely or not at all."""
        head = self._head(key)
        total, etag = int(head["ContentLength"]), str(head.get("ETag", ""))
        with (
            arriving(Path(local_path), total) as file,
            ThreadPoolExecutor(self.parallel_reads) as pool,
        ):

            def copy(start: int) -> None:
                stop = min(start + _PART_BYTES, total)
                part = _Reading(start, stop, etag=etag)
                write_all(file.fileno(), self._read(key, part, f"reading {start}..{stop}"), start)

            for _ in pool.map(copy, range(0, total, _PART_BYTES)):
                pass

    def local(self, key: str, folder: Path) -> Path:
        """Copy an object into `folder`, under the last part of its key."""
        path = folder / key.rpartition("/")[2]
        self.download(key, path)
        return path

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

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _explain(self, error: BaseException, key: str, doing: str) -> NoReturn:
        """Translate an error of boto3 into one of this package's and raise it."""
        found = explained(
            error,
            f"{self.uri}/{key}",
            doing,
            bucket=self.bucket,
            server=self._server(),
            attempts=self._client.attempts,
            worked_before=self._client.worked_before(),
        )
        raise found from (error if isinstance(found, Unavailable) else None)

    def _server(self) -> str:
        found = urlsplit(str(self._client.made().meta.endpoint_url))
        return found.netloc.rpartition("@")[2] or "S3"  # a URL may carry a password


class _Conflict(Exception):
    """Another writer of the same key was faster, or is writing now."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class _Reading:
    """Progress of a read. For a whole object, `stop` is known once the reply has arrived."""

    def __init__(self, start: int, stop: int | None, *, etag: str = "") -> None:
        self.start, self.stop, self.etag = start, stop, etag
        self.buffer = bytearray()
