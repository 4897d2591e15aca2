"""Find the columns of images and labels in a parquet file, and the names of the classes.

`datasets` writes JSON into the schema's metadata: info.features.<column>, with `_type` Image or
ClassLabel, the latter with `names`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.errors import BadSource

_KEY = b"huggingface"
_LABELS = ("label", "labels", "class", "class_name", "category", "target")  # where they are strings


@dataclass(frozen=True)
class Columns:
    """The columns of images and labels."""

    image: str
    label: str
    classes: tuple[str, ...] | None
    """Class names by label, if the file names them."""
    named: bool = False
    """Whether labels are the names of their classes, not numbers."""

    @property
    def names(self) -> tuple[str, str]:
        """Names of the image and the label column."""
        return self.image, self.label

    def require_same(self, path: Path, schema: pa.Schema) -> None:
        """Raise BadSource if another file of the dataset has other columns or classes."""
        other = find_columns(path, schema, self.image, self.label)
        if other.named != self.named:
            raise BadSource(
                f"{path}, column {self.label!r}: {schema.field(self.label).type}, where the first "
                "file has labels of another type"
            )
        if other.classes != self.classes:
            raise BadSource(
                f"{path} names other classes than the first file: wanted {_some(self.classes)}, "
                f"found {_some(other.classes)}"
            )


def find_columns(
    path: Path, schema: pa.Schema, image_column: str | None, label_column: str | None
) -> Columns:
    """Find the requested columns, or the ones with matching features.

    Raises BadSource, which names the file, what was wanted and what was found.
    """
    features = _features(path, schema)
    image = image_column or _only(
        path,
        schema,
        "image",
        by_feature=_of_type(features, "Image"),
        by_type=[field.name for field in schema if _is_image(field.type)],
    )
    label = label_column or _only(
        path,
        schema,
        "label",
        by_feature=_of_type(features, "ClassLabel"),
        by_type=[field.name for field in schema if pa.types.is_integer(field.type)]
        or [field.name for field in schema if is_named(field.type) and field.name in _LABELS],
    )
    for name, wanted, fits in (
        (image, "struct{bytes, path} or binary", _is_image),
        (label, "integers, strings or booleans", _is_label),
    ):
        if name not in schema.names:
            raise BadSource(f"{path} has no column {name!r}; it has {_columns(schema)}")
        found = schema.field(name).type
        if not fits(found):
            raise BadSource(f"{path}, column {name!r}: wanted {wanted}, found {found}")
    named = is_named(schema.field(label).type)
    return Columns(image, label, None if named else _names(features.get(label)), named)


def _features(path: Path, schema: pa.Schema) -> dict[str, Any]:
    text = (schema.metadata or {}).get(_KEY)
    if text is None:
        return {}
    try:
        features = json.loads(text)["info"]["features"]
        assert isinstance(features, dict)
    except (ValueError, KeyError, TypeError, AssertionError):
        raise BadSource(
            f"{path}: its metadata `huggingface` is not JSON with info.features"
        ) from None
    return features


def _of_type(features: dict[str, Any], kind: str) -> list[str]:
    return [
        name
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == kind
    ]


def _names(feature: Any) -> tuple[str, ...] | None:
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(str(name) for name in names) if isinstance(names, list) else None


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
    return _is_binary(kind)


def is_named(kind: pa.DataType) -> bool:
    """Whether labels of that type are names: strings, booleans, and dictionaries of strings."""
    if pa.types.is_dictionary(kind):
        return is_named(kind.value_type)
    return any(
        check(kind) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean)
    )


def _is_label(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or is_named(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _only(
    path: Path, schema: pa.Schema, what: str, *, by_feature: list[str], by_type: list[str]
) -> str:
    """Find the one matching column: by its feature, else by its name, else by its type."""
    if len(by_feature) == 1:
        return by_feature[0]
    found = by_feature or by_type
    if what in found:
        return what
    if len(found) == 1:
        return found[0]
    some = f"several ({', '.join(found)})" if found else "none"
    raise BadSource(
        f"{path}: wanted one {what} column, found {some} among {_columns(schema)}: name it with "
        f"--{what}-column"
    )


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _some(names: Iterable[str] | None) -> str:
    return "none" if names is None else ", ".join(list(names)[:5])
