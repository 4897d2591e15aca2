"""How a dataset comes to be: a source says what there is, the writer makes tars and a manifest."""

from storage.pack.writer import pack

__all__ = ["pack"]
