"""Errors of storage. A message says where, what was wanted, what was found and what to do.

StorageError
 |- BadInput(ValueError)     the user can correct it; retrying does not help
 |   |- BadUri
 |   |- AccessDenied         the server refused the credentials
 |   |   `- NoCredentials    none were found
 |   |- NotWritable          a probe object cannot be written to the storage root
 |   |- ObjectNotFound
 |   |- ObjectExists
 |   |- ObjectChanged        shorter than the range asked for, or replaced while it was read
 |   |- DatasetNotFound
 |   |- DatasetExists
 |   |- BadDataset           manifest, index and shards contradict each other
 |   |- BadSample            one sample of a shard cannot be used: shard, key, reason
 |   |- BadImage             `decode` refuses these bytes; a BadSample once the key is known
 |   |- BadSelection
 |   |- BadOrder
 |   |- BadSource            the source to be packed is missing or wrong
 |   |- WeightsNotFound
 |   |- WeightsExist
 |   `- CorruptWeights
 `- Unavailable(OSError)     the environment failed, after bounded retries: S3 down, disk full

Messages never carry credentials: they are built from bucket, key and the server's error code.
"""


class StorageError(Exception):
    """Base class of this package's errors."""


def printable(name: str) -> str:
    """Make a name from outside safe to print: control characters and stray bytes are escaped."""
    return name if name.isprintable() else ascii(name)


class BadInput(StorageError, ValueError):
    """A mistake that the user can correct."""


class Unavailable(StorageError, OSError):
    """The environment failed (network, server, disk), and bounded retries did not help."""


class BadUri(BadInput):
    """A URI is neither `s3://bucket/prefix`, `file:///path` nor a local path."""


class AccessDenied(BadInput):
    """The server refused the credentials, or none were found."""


class NoCredentials(AccessDenied):
    """No credentials were found. On a worker it is not the user's mistake: the driver had some."""


class NotWritable(BadInput):
    """A probe object cannot be written to the storage root."""


class ObjectNotFound(BadInput):
    """There is no object with that key."""


class ObjectExists(BadInput):
    """A write with `if_absent` found an object with other bytes."""


class ObjectChanged(BadInput):
    """An object is shorter than the range asked for, or was replaced while it was read."""


class DatasetNotFound(BadInput):
    """There is no dataset.json at that URI."""


class DatasetExists(BadInput):
    """There is another dataset at that URI already."""


class BadDataset(BadInput):
    """Manifest, index and shards contradict each other."""


class BadSample(BadInput):
    """One sample cannot be used.

    Shard, key and reason are separate attributes, so that a quarantine can count by reason.
    """

    def __init__(self, shard: str, key: str, reason: str) -> None:
        super().__init__(shard, key, reason)
        self.shard = shard
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        return f"bad sample {self.key!r} in {self.shard}: {self.reason}"


class BadImage(BadInput):
    """These bytes are not an image that is accepted."""


class BadSelection(BadInput):
    """A selection asks for a class or a number of examples that the split does not have."""


class BadOrder(BadInput):
    """The samples cannot fill a batch, or the number of workers does not divide the batch."""


class BadSource(BadInput):
    """The source to be packed is missing, empty or in an unexpected form."""


class WeightsNotFound(BadInput):
    """There are no committed weights at that URI."""


class WeightsExist(BadInput):
    """Weights are already committed at that URI, and a commit is never overwritten."""


class CorruptWeights(BadInput):
    """A weights file does not have the checksum that its manifest promises."""
