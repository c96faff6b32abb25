"""What can go wrong between docbatch and object storage: what a caller can do about it decides the class."""

from __future__ import annotations


class StorageError(Exception):
    """A request to object storage failed. The message names operation, bucket, key and endpoint."""


class ObjectMissing(StorageError):
    """No such object."""


class PreconditionFailed(StorageError):
    """A conditional request lost: the object exists already, or is another one than expected."""


class StorageRefused(StorageError):
    """Credentials or settings are missing, wrong, or do not allow it: repeating does not help until they are mended."""


class BucketMissing(StorageRefused):
    """There is no such bucket (any more)."""


class StorageUnreachable(StorageError):
    """No usable answer. A PUT may or may not have taken place: read before deciding."""


class ObjectTooLarge(StorageError):
    """The object is larger than the caller allows; nothing of it was read."""


class ObjectArchived(StorageError):
    """The object lies in an archive (Glacier) and cannot be read before it is restored."""


class ListingBroken(StorageRefused):
    """The server's listing cannot be followed: it repeats itself, or leaves out what was asked for."""
