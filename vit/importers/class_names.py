"""Names of the classes of a public checkpoint, where the files beside its weights say them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit.importers.settings import read_json

_UNNAMED = re.compile(r"LABEL_\d+")  # what transformers writes where nobody gave a name


def checkpoint_class_names(path: Path) -> tuple[str, ...] | None:
    """Class names in the order of the logits, from config.json in a checkpoint's folder.

    timm says them in `label_names`, Hugging Face in `id2label`.

    Args:
        path: a checkpoint's file or folder.

    Returns:
        The names. None if the file has none, or has no name for some class.

    Raises:
        BadCheckpoint: config.json is no JSON object.
    """
    folder = path if path.is_dir() else path.parent
    config: Mapping[str, Any] = read_json(folder / "config.json") or {}
    said: Any = config.get("label_names") or config.get("id2label")
    if isinstance(said, dict):
        said = [said.get(str(number)) for number in range(len(said))]
    names: list[Any] = said if isinstance(said, list) else []
    if not all(isinstance(name, str) for name in names):
        return None
    return None if all(_UNNAMED.fullmatch(name) for name in names) else tuple(names)
