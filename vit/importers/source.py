"""Read a checkpoint and infer as much as possible without knowing the model it goes into.

`read_source` gives the tensors under our names, after the rewrites of `fixes`, and every field of
the model that files and shapes show. `import_checkpoint` and `infer_config` build on it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from vit.importers import fixes, hugging_face, towers
from vit.importers.errors import BadCheckpoint
from vit.importers.files import FOLDER, as_float, find_weights, read_tensors
from vit.importers.layouts import Layout, sniff
from vit.importers.misfit import unsupported
from vit.importers.rules import translate
from vit.importers.settings import Settings, read_settings
from vit.importers.shapes import heads_of_flax, shown_by_tensors, unstacked
from vit.importers.wrappings import leave_out, strip_names, unnest


@dataclass(kw_only=True)
class Source:
    """A checkpoint and what is known about its model."""

    path: Path
    layout: Layout
    settings: Settings
    weights: dict[str, Tensor]
    """Tensors under the names of our models."""
    fields: dict[str, Any]
    """Known fields of the model's config."""
    said_by: dict[str, str]
    """Source of each known field, for messages."""
    notes: list[str] = field(default_factory=list)

    def know(self, name: str, value: Any, by: str) -> None:
        """Set a field of the config and its source."""
        self.fields[name], self.said_by[name] = value, by

    def error(self, reason: object) -> BadCheckpoint:
        """Make an error about this checkpoint; the caller raises it."""
        return BadCheckpoint(f"{self.path} ({self.layout.name}): {reason}")


def read_source(path: str | PathLike[str]) -> Source:
    """Read the checkpoint at `path`, a file or a folder.

    Raises BadCheckpoint if it cannot be read or its layout is unknown, and FileNotFoundError.
    """
    path = Path(path)
    file, notes = find_weights(path)
    state, nested = unnest(read_tensors(file), file)
    tensors, prefixed = strip_names(as_float(state, file))
    tensors, left_out = leave_out(tensors)
    try:
        layout = sniff(tensors)
    except ValueError as error:
        raise BadCheckpoint(f"{path}: {unsupported(tensors) or error}") from None
    count = f"layout {layout.name}, {len(tensors)} tensors"
    heads = heads_of_flax(tensors)
    settings, read = _settings_beside(file)
    try:
        weights = translate(unstacked(tensors), layout.rules)
        fixed = fixes.spread_relative_bias(weights)
        if layout.rules is hugging_face.RULES:
            fixed += fixes.head_of_the_class_token(weights)
        if layout.rules is towers.CLIP:
            fixed += fixes.head_of_a_tower(weights, averages=settings.head_averages)
        if "head_dist.weight" not in weights:
            fixed += fixes.distillation_as_register(weights)
        shown = shown_by_tensors(weights)
    except ValueError as error:
        reason = unsupported(tensors)
        raise BadCheckpoint(f"{path} ({layout.name}): {reason or error}") from None
    source = Source(
        path=path,
        layout=layout,
        settings=settings,
        weights=weights,
        fields={name: value for name, (value, _) in shown.items()},
        said_by={name: by for name, (_, by) in shown.items()},
        notes=[count, *notes, *nested, *prefixed, *left_out, *read, *fixed],
    )
    _apply_settings(source, heads)
    return source


def _settings_beside(file: Path) -> tuple[Settings, list[str]]:
    """Settings from config.json beside the file, and a note if reading them was not expected."""
    settings = read_settings(file.parent)
    expected = file.name in FOLDER
    if settings is None:
        there = (file.parent / "config.json").is_file()
        return Settings(), ["config.json beside it describes no model: ignored"] if there else []
    return settings, [] if expected else [f"{settings.file} beside {file.name} read"]


def _apply_settings(source: Source, heads: int | None) -> None:
    """Add the fields that settings and layout state; ignore settings of another model."""
    said, width = source.settings, source.fields.get("width")
    if width is not None and said.width not in (None, width):
        source.notes.append(
            f"config.json beside it is another model's (width {said.width}, the weights have"
            f" {width}): ignored"
        )
        said = source.settings = Settings()
    if source.layout.family == "bit":
        return
    if heads is not None:
        source.know("heads", heads, "the shape of its query kernels")
    for name in ("heads", "gelu", "norm_eps"):
        value = getattr(said, name)
        if name == "gelu" and source.fields.get("mlp") == "swiglu":
            continue  # whatever the files say of an activation, none of the blocks has a GELU
        if value is not None and name not in source.fields:
            source.know(name, value, said.said_by.get(name, "config.json"))
    for name in ("gelu", "norm_eps"):
        value = getattr(source.layout, name)
        if value is not None and name not in source.fields:
            source.know(name, value, f"layout {source.layout.name}")
    for name, value in asdict(said.turning).items() if said.turning else ():
        source.know(name, value, said.said_by.get("turning", "config.json"))
    if said.pos_embed and "pos_embed" not in source.fields:
        source.know("pos_embed", said.pos_embed, "config.json")


def pixels_of(
    source: Source, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, Mapping[str, str]]:
    """Mean and standard deviation of its pixels (None if unknown), and the source of each."""
    said: dict[str, str] = {}
    found: list[tuple[float, ...] | None] = []
    for name, given in (("mean", mean), ("std", std)):
        by_files = getattr(source.settings, name)
        by_layout = getattr(source.layout, name)
        found.append(given or by_files or by_layout)
        if given:
            said[name] = "given"
        elif by_files:
            said[name] = source.settings.said_by.get(name, "config.json")
        elif by_layout:
            said[name] = f"layout {source.layout.name}"
    return found[0], found[1], said
