"""The reading half of `S3Store`: reads that go on after a broken connection, and downloads.

A body that broke off is resumed at the byte it reached. All reads of one call ask for the same
ETag, so that two versions of an object are never mixed.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from storage.errors import ObjectChanged, ObjectNotFound, Unavailable
from storage.local_files import arriving, write_all
from storage.proxies import proxy_hint
from storage.s3_client import Checksums, Client
from storage.s3_errors import ANY_FAILURE, BROKEN_BODY, explained
from storage.store import Traffic

PART_BYTES = 16 << 20
_READ_CHUNK_BYTES = 64 << 10  # lost when a body breaks off: urllib3 drops the chunk it was filling
_BODY_ATTEMPTS = 8


class S3Reads:
    """Reading of the objects below `prefix` of `bucket`."""

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

    def download(self, key: str, local_path: str | Path) -> None:
        """Copy one version of an object to a local file, which appears completely or not at all."""
        head = self._head(key)
        total, etag = int(head["ContentLength"]), str(head.get("ETag", ""))
        with (
            arriving(Path(local_path), total) as file,
            ThreadPoolExecutor(self.parallel_reads) as pool,
        ):

            def copy(start: int) -> None:
                stop = min(start + PART_BYTES, total)
                part = _Reading(start, stop, etag=etag)
                write_all(file.fileno(), self._read(key, part, f"reading {start}..{stop}"), start)

            for _ in pool.map(copy, range(0, total, PART_BYTES)):
                pass

    def local(self, key: str, folder: Path) -> Path:
        """Copy an object into `folder`, under the last part of its key."""
        path = folder / key.rpartition("/")[2]
        self.download(key, path)
        return path

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
            through=proxy_hint(self._endpoint()),
        )
        raise found from (error if isinstance(found, Unavailable) else None)

    def _server(self) -> str:
        found = urlsplit(self._endpoint())
        return found.netloc.rpartition("@")[2] or "S3"  # a URL may carry a password

    def _endpoint(self) -> str:
        return str(self._client.made().meta.endpoint_url)


class _Reading:
    """Progress of a read. For a whole object, `stop` is known once the reply has arrived."""

    def __init__(self, start: int, stop: int | None, *, etag: str = "") -> None:
        self.start, self.stop, self.etag = start, stop, etag
        self.buffer = bytearray()
