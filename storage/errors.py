"""What can go wrong in storage. A message says where, what was wanted and found, what to do.

StorageError
 |- BadInput(ValueError)     the user can mend it; retrying does not help
 |   |- BadUri
 |   |- AccessDenied         the server refused the credentials
 |   |   `- NoCredentials    none were found
 |   |- NotWritable          the storage root does not take a probe
 |   |- ObjectNotFound
 |   |- ObjectExists
 |   |- ObjectChanged        shorter than the range asked for, or replaced while it was read
 |   |- DatasetNotFound
 |   |- DatasetExists
 |   |- BadDataset           manifest, index or shard contradict each other
 |   |- BadSample            one sample of a shard cannot be used: shard, key, reason
 |   |- BadImage             bytes that `decode` refuses; a BadSample where the key is known
 |   |- BadSelection
 |   |- BadOrder
 |   |- BadSource            what `pack` was pointed at
 |   |- WeightsNotFound
 |   |- WeightsExist
 |   `- CorruptWeights
 `- Unavailable(OSError)     the world failed, after bounded retries: S3 down, disk full

Messages never carry credentials: they are built from bucket, key and the server's error code.
"""


class StorageError(Exception):
    """Root of everything this package raises on purpose."""


def printable(name: str) -> str:
    """A name from outside, fit for a terminal: control characters and stray bytes are escaped."""
    return name if name.isprintable() else ascii(name)


class BadInput(StorageError, ValueError):
    """Something the user can mend."""


class Unavailable(StorageError, OSError):
    """The world failed and went on failing through bounded retries."""


class BadUri(BadInput):
    """A place that is neither `s3://bucket/prefix`, `file:///path` nor a local path."""


class AccessDenied(BadInput):
    """The server refused the credentials, or none were found."""


class NoCredentials(AccessDenied):
    """No credentials were found. On a worker it is no mistake: the driver had some."""


class NotWritable(BadInput):
    """The storage root does not take a probe object."""


class ObjectNotFound(BadInput):
    """No object of that key."""


class ObjectExists(BadInput):
    """A write with `if_absent` met an object that holds other bytes."""


class ObjectChanged(BadInput):
    """An object is shorter than the range asked for, or was replaced while it was read."""


class DatasetNotFound(BadInput):
    """No dataset.json at that place."""


class DatasetExists(BadInput):
    """Another dataset is already at that place."""


class BadDataset(BadInput):
    """Manifest, index or shards contradict each other."""


class BadSample(BadInput):
    """One sample cannot be used.

    The three facts stay separate, so that a quarantine can count by reason.
    """

    def __init__(self, shard: str, key: str, reason: str) -> None:
        super().__init__(shard, key, reason)
        self.shard = shard
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        return f"bad sample {self.key!r} in {self.shard}: {self.reason}"


class BadImage(BadInput):
    """Bytes that are not an image we accept."""


class BadSelection(BadInput):
    """A class or a number of examples that the split does not have."""


class BadOrder(BadInput):
    """Batches that the samples cannot fill, or a world size that does not divide the batch."""


class BadSource(BadInput):
    """What was given to `pack` is missing, empty or odd."""


class WeightsNotFound(BadInput):
    """No committed weights at that place."""


class WeightsExist(BadInput):
    """Weights are already committed at that place, and a commit is never overwritten."""


class CorruptWeights(BadInput):
    """A weights file does not have the checksum its manifest promises."""
