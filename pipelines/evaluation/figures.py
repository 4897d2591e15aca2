"""Draw answers as PNG: confusions of the most confused classes, and the worst mistakes."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from pipelines.evaluation.answers import Answers
from pipelines.evaluation.mistakes import Pair
from pipelines.inspection.image_grid import image_grid
from storage.columns import StreamSpec, open_stream
from storage.decode import decode
from storage.reader import read_samples
from vit import normalize

MOST_CLASSES = 20
_CELL, _MARGIN, _LETTERS = 44, 190, 24  # pixels, pixels, letters of a class name
_DIAGONAL, _MISTAKE, _INK, _FAINT = (31, 111, 178), (200, 60, 40), (20, 20, 20), (150, 150, 150)


def confusion_picture(answers: Answers, pairs: Sequence[Pair], names: Sequence[str]) -> bytes:
    """Share of each class's images (row) by what they were taken for (column), in percent.

    Shows all classes if there are at most 20, else those with the most frequent confusions.
    """
    if len(names) <= MOST_CLASSES:
        shown = list(range(len(names)))
    else:
        confused = dict.fromkeys(c for pair in pairs for c in (pair.label, pair.taken_for))
        shown = sorted(list(confused)[:MOST_CLASSES])
    share = confusion_shares(answers, shown)
    font = ImageFont.load_default(13)
    side = _MARGIN + _CELL * len(shown) + 10
    picture = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(picture)
    for row, label in enumerate(shown):
        middle = _MARGIN + _CELL * row + _CELL // 2
        name = _shortened(names[label])
        draw.text((_MARGIN - 8, middle), name, _INK, font, anchor="rm")
        _turned_text(picture, name, middle, font)
        for column in range(len(shown)):
            value = share[row, column]
            left, upper = _MARGIN + _CELL * column, _MARGIN + _CELL * row
            box = (left, upper, left + _CELL - 2, upper + _CELL - 2)
            if np.isnan(value):
                draw.rectangle(box, outline=_FAINT)
                continue
            colour = _DIAGONAL if row == column else _MISTAKE
            draw.rectangle(box, fill=_tinted(colour, float(value)))
            if round(100 * value):
                ink = "white" if value > 0.5 else _INK
                centre = (left + _CELL // 2 - 1, upper + _CELL // 2 - 1)
                draw.text(centre, f"{100 * value:.0f}", ink, font, anchor="mm")
    draw.text((10, 10), "row: label\ncolumn: answer\n% of the row's images", _INK, font)
    return _png(picture)


def confusion_shares(answers: Answers, shown: Sequence[int]) -> np.ndarray:
    """Share of the images of each class that got each answer: float64 [n, n], NaN rows without."""
    taken = answers.top[:, 0]
    counts = np.array(
        [[((answers.label == a) & (taken == b)).sum() for b in shown] for a in shown], np.float64
    )
    images = np.array([(answers.label == a).sum() for a in shown], np.float64)
    with np.errstate(invalid="ignore"):
        return counts / images[:, None]


def wrong_picture(
    spec: StreamSpec, digest: str, positions: np.ndarray
) -> tuple[bytes, list[tuple[str, str]]]:
    """The images at some positions of the split, as the network saw them; their (shard, key)."""
    opened = open_stream(spec, digest)
    images = np.zeros((len(positions), *[spec.crop.image_size] * 2, 3), np.uint8)
    keys = [("", "")] * len(positions)
    for raw in read_samples(opened.store, opened.index, positions):
        randomness = {"seed": 0, "epoch": 0, "index": int(positions[raw.request])}
        images[raw.request] = decode(raw.data, spec.crop, **randomness)
        keys[raw.request] = raw.shard, raw.key
    return image_grid(normalize(torch.from_numpy(images))), keys


def _shortened(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"


def _turned_text(
    picture: Image.Image, text: str, middle: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> None:
    """Upwards, above the column whose middle it is."""
    strip = Image.new("RGB", (_MARGIN - 12, 20), "white")
    ImageDraw.Draw(strip).text((4, 10), text, _INK, font, anchor="lm")
    picture.paste(strip.rotate(90, expand=True), (middle - 10, 6))


def _tinted(colour: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    """White at 0, the colour at 1; small shares stay visible."""
    depth = share**0.5
    red, green, blue = (round(255 + (c - 255) * depth) for c in colour)
    return red, green, blue


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
