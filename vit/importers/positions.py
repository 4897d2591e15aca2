"""Find the grid of a checkpoint's position table, and its rows that belong to prefix tokens."""

from collections.abc import Sequence
from math import isqrt, prod

from vit.importers import fixes
from vit.importers.shapes import BIAS_TABLE
from vit.importers.source import Source
from vit.relative import offsets

Size = tuple[int, int]
_OPTION = "--stage.init-image-size"


def place_positions(
    source: Source, sizes: Sequence[tuple[Size, str]], *, given: Size | None
) -> None:
    """Find the resolution of the position table, and rewrite rows that our models do not have.

    Args:
        source: the checkpoint; `image_size` and `pos_embed_prefix` are set, guesses become notes.
        sizes: resolutions to try in this order, each with the source it comes from.
        given: the resolution set by the user, which must fit.

    Raises BadCheckpoint if the table fits none of them and no square grid.
    """
    sizes = [(given, "given")] if given else sizes
    table = source.weights.get("pos_embed")
    step = _patch_pixels(source)
    if table is None:
        _without_table(source, sizes, step)
        return
    rows = table.shape[1]
    for size, by in sizes:
        grid = size[0] // step, size[1] // step
        if _take(source, rows - grid[0] * grid[1], guessed=False):
            _know_size(source, size, by, step)
            return
    if not given:
        for prefix in {_prefix(source), int("cls_token" in source.weights)}:
            side = isqrt(max(rows - prefix, 0))
            if side and side * side + prefix == rows and _take(source, prefix, guessed=True):
                size = (side * step, side * step)
                source.know("image_size", size, f"pos_embed of {rows} rows, if it is square")
                source.notes.append(
                    f"pos_embed has {rows} rows: assumed a square grid {side}x{side} ({size[0]}"
                    f" pixels) - for another set {_OPTION}"
                )
                return
    tried = sizes[0][0] if sizes else (0, 0)
    patches = (tried[0] // step) * (tried[1] // step)
    raise source.error(
        f"position table has {rows} rows, wanted {patches} (+ {_prefix(source)}) at {_said(tried)}"
        f" pixels - set the checkpoint's resolution by {_OPTION}"
    )


def _without_table(source: Source, sizes: Sequence[tuple[Size, str]], step: int) -> None:
    y, x = source.weights.get("pos_embed_y"), source.weights.get("pos_embed_x")
    if y is not None and x is not None:
        size = (y.shape[1] * step, x.shape[2] * step)
        source.know("image_size", size, "pos_embed_y and pos_embed_x")
    elif BIAS_TABLE in source.weights:
        _of_offsets(source, sizes, step)
    elif sizes:
        _know_size(source, *sizes[0], step)


def _of_offsets(source: Source, sizes: Sequence[tuple[Size, str]], step: int) -> None:
    """Find the resolution of a table of (2h - 1)(2w - 1) offsets, and 3 rows for a class token."""
    rows = source.weights[BIAS_TABLE].shape[0]
    side = (isqrt(rows) + 1) // 2
    square = ((side * step, side * step), f"{BIAS_TABLE} of {rows} rows, if it is square")
    for size, by in (*sizes, square):
        if prod(offsets((size[0] // step, size[1] // step))) in (rows, rows - 3):
            _know_size(source, size, by, step)
            if by == square[1] and sizes:
                source.notes.append(
                    f"assumed image_size {_said(size)}: {by} - for another set {_OPTION}"
                )
            return
    raise source.error(
        f"its table of relative positions has {rows} rows, which fit no square grid - set the"
        f" checkpoint's resolution by {_OPTION}"
    )


def _know_size(source: Source, size: Size, by: str, step: int) -> None:
    """Set the resolution; of one that is no multiple of the patch the last pixels are ignored."""
    grid = size[0] // step, size[1] // step
    if (grid[0] * step, grid[1] * step) != size:
        if source.fields["stem_blocks"]:
            size = grid[0] * step, grid[1] * step
        else:
            source.know("drop_rest", True, by)
        source.notes.append(
            f"image_size {_said(size)} is not a multiple of the patch size {step}: took its"
            f" {grid[0]}x{grid[1]} grid"
        )
    source.know("image_size", size, by)


def _take(source: Source, prefix: int, *, guessed: bool) -> bool:
    """Whether `prefix` rows can belong to prefix tokens; a row that is not kept is rewritten."""
    wanted = _prefix(source)
    if prefix == wanted or (prefix == 0 and not guessed):
        source.know("pos_embed_prefix", bool(prefix) or not wanted, "the rows of pos_embed")
        return True
    if prefix == 1 and "cls_token" in source.weights and source.fields["registers"]:
        fixes.class_row_into_token(source.weights)
        source.know("pos_embed_prefix", False, "the rows of pos_embed")
        source.notes.append("pos_embed: the class token's row was added to the class token")
        return True
    return False


def _prefix(source: Source) -> int:
    tokens = ("cls_token", "dist_token")
    return sum(name in source.weights for name in tokens) + source.fields["registers"]


def _patch_pixels(source: Source) -> int:
    blocks = source.fields["stem_blocks"]
    return source.fields["patch_size"] * (2 ** (1 + len(blocks)) if blocks else 1)


def _said(size: Size) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"
