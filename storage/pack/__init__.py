"""Make datasets: a source lists and reads images, the writer makes tars and a manifest."""

from storage.pack.writer import pack

__all__ = ["pack"]
