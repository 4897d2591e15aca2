"""Open the store at a URI: a directory or a bucket."""

from storage.local import LocalStore
from storage.store import ObjectStore
from storage.uri import parse


def open_store(uri: str) -> ObjectStore:
    """The store at a URI. Nothing is accessed before the first operation."""
    place = parse(uri)
    if place.bucket is None:
        return LocalStore(place.path)
    from storage.s3 import S3Store  # boto3 takes a while to import, and a directory needs none

    return S3Store(place.bucket, place.path)
