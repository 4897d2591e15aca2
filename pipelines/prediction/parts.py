"""Predictions as Parquet: a folder with one file per piece, and what they are predictions of.

<out>/_predictions.json     what was asked for: weights, crop, images; written first
      part-000000.parquet   rows of piece 0, written as a whole
      _SUCCESS              empty; written when all parts are there

A second run of the same command writes only the parts that are missing. Readers of Parquet take the
folder as one table, and leave out names that begin with an underscore.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from pipelines.lineage.candidate import model_record
from pipelines.prediction.pieces import Piece
from pipelines.prediction.prediction import Prediction
from pipelines.recipes.errors import Mistake
from storage.errors import ObjectExists
from storage.objects import open_store
from storage.uri import parse

FORMAT_VERSION = 1
PLAN, SUCCESS = "_predictions.json", "_SUCCESS"
_PART = re.compile(r"part-(\d{6,})\.parquet")


def plan_of(prediction: Prediction, pieces: Iterable[Piece]) -> dict[str, Any]:
    """Everything that the numbers in the parts depend on."""
    images = hashlib.sha256("".join(piece.digest() for piece in pieces).encode()).hexdigest()
    names = prediction.classes.names
    return {
        "format_version": FORMAT_VERSION,
        "weights": prediction.candidate.sha256,
        "model": model_record(prediction.candidate.config),
        "class_names": names and list(names),
        "crop": json.loads(json.dumps(asdict(prediction.crop))),
        "top": prediction.top,
        "features": prediction.features,
        "batch": prediction.batch,
        "precision": prediction.precision,
        "images": images,
    }


def begin(out: str, plan: Mapping[str, Any]) -> set[int]:
    """Claim the folder for a plan, or find it again; return the numbers of finished parts.

    Raises:
        Mistake: `out` is a file, or holds something else.
    """
    location = parse(out)
    if location.bucket is None and Path(location.path).is_file():
        raise Mistake(f"--out {out} is a file: give a new folder, FILE.csv or FILE.parquet")
    store = open_store(out)
    keys = list(store.list())
    if keys and PLAN not in keys:
        raise Mistake(f"--out {out} holds {keys[0]}, no predictions: give a new or an empty folder")
    text = json.dumps(plan, indent=1).encode() + b"\n"
    try:
        store.write(PLAN, text, if_absent=True)
    except ObjectExists:
        there: dict[str, Any] = json.loads(store.read(PLAN))
        differ = [name for name in plan if there.get(name) != plan[name]]
        raise Mistake(
            f"--out {out} holds predictions of another command: {', '.join(differ)} differ - give"
            " another --out, or delete it"
        ) from None
    return {int(match[1]) for key in keys if (match := _PART.fullmatch(key))}


def write_part(
    out: str, number: int, columns: Mapping[str, Sequence[Any]], features: np.ndarray | None
) -> None:
    """Write the rows of a piece, and features [n, D] where there is no error. Raises Unavailable.

    Columns whose name begins with `probability` are numbers, the others texts.
    """
    arrays: dict[str, Any] = {}
    for name, values in columns.items():
        number_kind = name.startswith("probability")
        kind = pyarrow.float64() if number_kind else pyarrow.string()
        arrays[name] = pyarrow.array(list(values), kind)
    if features is not None:
        bad = pyarrow.array([text is not None for text in columns["error"]])
        ends = np.arange(len(features) + 1, dtype=np.int32) * features.shape[1]
        arrays["features"] = pyarrow.ListArray.from_arrays(  # fixed sizes: no nulls in Parquet
            pyarrow.array(ends), pyarrow.array(features.reshape(-1)), mask=bad
        )
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(arrays), file)
    open_store(out).write(part_name(number), file.getvalue())


def part_name(number: int) -> str:
    """Name of the file of a piece."""
    return f"part-{number:06d}.parquet"


def finish(out: str) -> None:
    """Mark the folder as complete."""
    open_store(out).write(SUCCESS, b"")
