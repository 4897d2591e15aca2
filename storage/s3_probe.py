"""Find out by experiment why a bucket refuses a probe: servers answer with a dozen error codes."""

from collections.abc import Callable
from contextlib import suppress

from botocore.exceptions import ClientError

from storage.errors import StorageError
from storage.s3_errors import PLAIN_CHECKSUMS
from storage.store import ONE_WRITER, ObjectStore


def reason_of_refusal(
    error: StorageError, name: str, store: ObjectStore, without_checksums: ObjectStore
) -> str:
    """Explanation to add to the error of a refused conditional write; may be empty.

    Args:
        error: the error of the write.
        name: key of the probe.
        store: the store it was written to.
        without_checksums: the same store through a client that does not send boto's checksums.
    """
    if not isinstance(error.__context__, ClientError):
        return ""  # no answer at all
    if "If-None-Match" in str(error) or "AWS_REQUEST_CHECKSUM" in str(error):
        return ""  # the error says it already
    if _works(lambda: store.write(name, b"plain"), store, name):
        return f". Plain writes work, conditional ones (If-None-Match) do not. {_CONDITIONAL}"
    if _works(lambda: without_checksums.write(name, b"plain"), without_checksums, name):
        return f". The server does not know boto's checksums: {PLAIN_CHECKSUMS}"
    return ""


def _works(write: Callable[[], None], store: ObjectStore, name: str) -> bool:
    with suppress(StorageError):
        write()
        store.delete(name)
        return True
    return False


_CONDITIONAL = f"Use another server, or {ONE_WRITER}"
