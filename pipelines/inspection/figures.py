"""Draw the measurements as PNG; two models, before and after, share one scale side by side.

Figures are made without pyplot, which keeps global state. Text is never parsed as formulas,
because class names are data.
"""

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from PIL import Image

from pipelines.inspection.measure import Measured

_STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "font.family": "DejaVu Sans",  # comes with matplotlib, is there on every machine
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "figure.titlesize": 11.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
DPI = 130
_ONE_AT_A_TIME = threading.Lock()
_TILES = 16  # places a side whose similarity is shown; of a larger grid every n-th
_TILE_PIXELS = 32
_PANEL_WIDTH = 6.0  # inches of one panel
_BLUE, _GREY = "#1f6fb2", "#6b6b6b"


def filters_picture(models: Sequence[Measured]) -> bytes | None:
    """Principal components of the patch embedding as colours; grey is zero."""
    shown = [model for model in models if model.filters is not None and len(model.filters)]
    if not shown:
        return None

    def draw(axes: Axes, model: Measured) -> None:
        assert model.filters is not None
        count = len(model.filters)
        largest = np.abs(model.filters).max(axis=(1, 2, 3), keepdims=True)
        colours = model.filters / np.maximum(largest, 1e-30) / 2 + 0.5  # [n, 3, p, p] in [0, 1]
        mosaic, _ = _mosaic(colours.transpose(0, 2, 3, 1), columns=7)
        axes.imshow(mosaic, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(
            f"{_text(model.title, 40)}: the first {count},"
            f" {model.filters_share:.0%} of the variance",
            loc="left",
        )

    return _panels("Filters of the patch embedding (principal components)", shown, draw, high=3.9)


def positions_picture(models: Sequence[Measured]) -> bytes | None:
    """Cosine similarity of each place's embedding to all others: a grid of grids."""
    shown = [model for model in models if model.similarity is not None]
    if not shown:
        return None

    def draw(axes: Axes, model: Measured) -> None:
        assert model.similarity is not None
        rows, columns = model.similarity.shape[:2]
        at_rows, at_columns = (_every(side) for side in (rows, columns))
        tiles = model.similarity[np.ix_(at_rows, at_columns)]  # [r, c, h, w]
        mosaic, apart = _mosaic(
            tiles.reshape(-1, rows, columns), columns=len(at_columns), fill=np.nan
        )
        image = axes.imshow(mosaic, vmin=-1, vmax=1, cmap="viridis", interpolation="nearest")
        axes.set_xticks([(i + 0.45) * apart[1] for i in range(len(at_columns))])
        axes.set_xticklabels([str(patch + 1) for patch in at_columns])
        axes.set_yticks([(i + 0.45) * apart[0] for i in range(len(at_rows))])
        axes.set_yticklabels([str(patch + 1) for patch in at_rows])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("column of the patch")
        axes.set_ylabel("row of the patch")
        axes.set_title(_text(model.title, 40), loc="left")
        bar = axes.figure.colorbar(image, ax=axes, fraction=0.045, pad=0.02)
        bar.set_label("cosine similarity")

    title = "Similarity of position embeddings: one tile per patch"
    return _panels(title, shown, draw, high=5.2)


def distances_picture(models: Sequence[Measured]) -> bytes | None:
    """Mean attention distance of every head against depth, one dot per head."""
    shown = [model for model in models if model.distances is not None]
    if not shown:
        return None
    most = max(
        max(model.uniform, float(model.distances.max()))
        for model in shown
        if model.distances is not None
    )

    def draw(axes: Axes, model: Measured) -> None:
        assert model.distances is not None
        depth, heads = model.distances.shape
        x = np.repeat(np.arange(1, depth + 1), heads)
        size = 26 if depth <= 12 else 14
        axes.scatter(
            x, model.distances.ravel(), s=size, color=_BLUE, alpha=0.75, lw=0, label="a head"
        )
        axes.axhline(model.uniform, color=_GREY, lw=1, ls="--", label="attending to all alike")
        axes.set_xlim(0.4, depth + 0.6)
        axes.set_ylim(0, most * 1.15 or 1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("network depth (block)")
        axes.set_ylabel("mean attention distance (pixels)")
        axes.grid(axis="y", color="#dddddd", lw=0.6)
        axes.set_axisbelow(True)
        axes.set_title(
            f"{_text(model.title, 40)}: {heads} heads, {model.samples} images", loc="left"
        )
        axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")

    return _panels("How far attention reaches", shown, draw, high=3.8)


def rollout_picture(models: Sequence[Measured]) -> bytes | None:
    """Draw attention rollout over sample images: the images, then one row per model."""
    shown = [model for model in models if model.rollout is not None]
    if not shown:
        return None
    count = len(shown[-1].images)
    most = max(
        float(np.quantile(model.rollout, 0.995)) for model in shown if model.rollout is not None
    )
    with _styled():
        rows = 1 + len(shown)
        wide = max(1.15 * count, 5.0)
        figure = Figure(figsize=(wide + 0.9, 1.3 * rows + 0.75), dpi=DPI, layout="constrained")
        grid = figure.subplots(rows, count, squeeze=False)
        for at in range(count):
            last = shown[-1]
            grid[0, at].imshow(last.images[at], interpolation="nearest")
            grid[0, at].set_title(_text(last.classes[at]))
            for axes, model in zip(grid[1:, at], shown, strict=True):
                assert model.rollout is not None
                axes.imshow(_overlay(model.images[at], model.rollout[at] / most))
        for axes in grid.ravel():
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        grid[0, 0].set_ylabel("image")
        for row, model in enumerate(shown, start=1):
            grid[row, 0].set_ylabel(_text(model.title, 40).replace(", ", "\n"))
        scale = ScalarMappable(Normalize(0, most), "inferno")
        bar = figure.colorbar(scale, ax=grid[1:, :].ravel().tolist(), fraction=0.02, pad=0.01)
        bar.set_label("times an even share")
        figure.suptitle("Attention rollout: what reaches the head", x=0.01, ha="left")
        return _png(figure)


def _panels(
    title: str, models: Sequence[Measured], draw: Callable[[Axes, Measured], None], *, high: float
) -> bytes:
    with _styled():
        size = (_PANEL_WIDTH * len(models), high + 0.35)
        figure = Figure(figsize=size, dpi=DPI, layout=ConstrainedLayoutEngine(wspace=0.06))
        for axes, model in zip(
            figure.subplots(1, len(models), squeeze=False)[0], models, strict=True
        ):
            draw(axes, model)
        figure.suptitle(title, x=0.01, ha="left")
        return _png(figure)


@contextmanager
def _styled() -> Iterator[None]:
    """Apply the style under a lock: matplotlib has one per process, and stages may end together."""
    with _ONE_AT_A_TIME, matplotlib.rc_context(_STYLE):
        yield


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _mosaic(
    tiles: np.ndarray, *, columns: int, fill: float = 1.0
) -> tuple[np.ndarray, tuple[float, float]]:
    """Tiles [n, h, w, ...] side by side as one image [H, W, ...], and how far apart they begin.

    Small ones are enlarged, so that the gap between them can be narrow.
    """
    times = max(1, _TILE_PIXELS // max(tiles.shape[1:3]))
    tiles = tiles.repeat(times, axis=1).repeat(times, axis=2)
    count, height, width = tiles.shape[:3]
    gap = max(2, min(height, width) // 12)
    columns = min(columns, count)
    rows = -(-count // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, *tiles.shape[3:])
    mosaic = np.full(shape, fill)
    for at, tile in enumerate(tiles):
        top, left = (at // columns) * (height + gap), (at % columns) * (width + gap)
        mosaic[top : top + height, left : left + width] = tile
    return mosaic, (height + gap, width + gap)


def _every(side: int) -> list[int]:
    """The places of a side whose tiles are shown."""
    return list(range(0, side, -(-side // _TILES)))


def _overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """An image [S, S, 3] in grey under its heat [h, w] in [0, 1] -> float [S, S, 3] in [0, 1]."""
    side = image.shape[0]
    smooth = Image.fromarray(heat.astype(np.float32)).resize(
        (side, side), Image.Resampling.BILINEAR
    )
    colours = colormaps["inferno"](np.clip(np.asarray(smooth), 0, 1))[..., :3]
    grey = image.mean(axis=-1, keepdims=True) / 255
    return 0.65 * colours + 0.35 * grey


def _text(name: str, most: int = 14) -> str:
    """A name that is data, in letters that the font has, not longer than `most`."""
    shown = "".join(letter if ord(letter) in _letters() else "?" for letter in name)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


@cache
def _letters() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())
