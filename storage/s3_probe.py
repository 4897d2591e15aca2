"""Why a bucket refuses a probe: tried out, because servers answer with a dozen different codes."""

from collections.abc import Callable
from contextlib import suppress

from botocore.exceptions import ClientError

from storage.errors import StorageError
from storage.s3_errors import PLAIN_CHECKSUMS
from storage.store import ONE_WRITER, ObjectStore


def reason_of_refusal(
    error: StorageError, name: str, store: ObjectStore, without_checksums: ObjectStore
) -> str:
    """What to add to the error of a conditional write that the server answered, or nothing.

    Args:
        error: what the write ended with.
        name: key of the probe.
        store: where it was written.
        without_checksums: the same place, by a client that sends no checksums of boto's.
    """
    if not isinstance(error.__context__, ClientError):
        return ""  # no answer at all
    if "If-None-Match" in str(error) or "AWS_REQUEST_CHECKSUM" in str(error):
        return ""  # said already
    if _works(lambda: store.write(name, b"plain"), store, name):
        return f". A plain write works: conditional ones (If-None-Match) do not. {_CONDITIONAL}"
    if _works(lambda: without_checksums.write(name, b"plain"), without_checksums, name):
        return f". The server does not know boto's checksums: {PLAIN_CHECKSUMS}"
    return ""


def _works(write: Callable[[], None], store: ObjectStore, name: str) -> bool:
    with suppress(StorageError):
        write()
        store.delete(name)
        return True
    return False


_CONDITIONAL = f"Take another server, or {ONE_WRITER}"
