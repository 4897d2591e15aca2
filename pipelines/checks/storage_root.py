"""Check the storage root: what a run does to it, and its clock."""

import secrets
import time
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime

import boto3.session

from cluster.settings import Place
from pipelines.checks.finding import Finding, fail, ok, warn
from pipelines.cli.options import Command
from storage.errors import ObjectExists, StorageError
from storage.local import LocalStore
from storage.s3 import S3Store
from storage.store import ONE_WRITER, ObjectStore
from storage.uri import parse

_WARN_SKEW_SECONDS, _MOST_SKEW_SECONDS = 60.0, 900.0  # S3 refuses requests that are 15 minutes off


def check_storage(command: Command) -> Finding:
    """Check put, get, list, conditional put and delete under the storage root."""
    name, root = "storage", command.place.storage_root
    store = impatient_store(root)
    key = f".doctor-{secrets.token_hex(8)}"
    first, second = secrets.token_bytes(16), secrets.token_bytes(16)
    doing = "a write"
    try:
        store.write(key, first)
        try:
            doing = "a read"
            if store.read(key) != first:
                return fail(name, f"{root} returned other bytes than were written")
            doing = "a listing"
            if isinstance(store, S3Store) and key not in store.list(key):
                return fail(name, f"{root} does not list what was written - grant s3:ListBucket")
            doing = "a conditional write"
            try:
                store.write(key, second, if_absent=True)
                return fail(
                    name,
                    f"{root} ignores If-None-Match: two writers of one manifest would not notice"
                    f" each other - use a server with conditional writes, or"
                    f" {ONE_WRITER}",
                )
            except ObjectExists:
                pass
        finally:
            store.delete(key)
    except StorageError as error:
        return fail(name, f"{root} refuses {doing}: {error}")
    return ok(name, f"{root}: put, get, list, conditional put, delete")


def impatient_store(uri: str) -> ObjectStore:
    """Open the store at a URI, with short timeouts."""
    location = parse(uri)
    if location.bucket is None:
        return LocalStore(location.path)
    return S3Store(
        location.bucket, location.path, request_attempts=2, connect_seconds=2.0, read_seconds=5.0
    )


def check_clock(command: Command) -> Finding:
    """Compare this machine's clock with the S3 server's, because signatures contain the time."""
    name = "clock"
    if not any(_on_s3(command.place)):
        return ok(name, "storage is local: nothing to compare with")
    endpoint = boto3.session.Session().client("s3").meta.endpoint_url
    try:
        with urllib.request.urlopen(endpoint, timeout=5) as reply:  # noqa: S310  # boto3's own URL
            date = reply.headers["Date"]
    except urllib.error.HTTPError as refused:  # every response has the date
        date = refused.headers["Date"]
    except OSError as error:
        return fail(name, f"{endpoint} does not answer ({error}) - see AWS_ENDPOINT_URL")
    if not date:
        return warn(name, f"{endpoint} sends no Date header")
    skew = time.time() - parsedate_to_datetime(date).timestamp()
    text = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the storage's"
    if abs(skew) >= _MOST_SKEW_SECONDS:
        return fail(name, f"{text}: signatures will be refused - set the clock (NTP)")
    if abs(skew) >= _WARN_SKEW_SECONDS:
        return warn(name, f"{text} - set the clock (NTP)")
    return ok(name, text)


def _on_s3(place: Place) -> list[bool]:
    return [parse(root).bucket is not None for root in (place.storage_root, place.data_root)]
