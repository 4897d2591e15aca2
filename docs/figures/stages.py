"""Draw the README's picture: python docs/figures/stages.py > docs/figures/stages.svg."""

WIDTH, HEIGHT = 960, 330
STYLE = """
  text { font: 14px system-ui, 'DejaVu Sans', sans-serif; fill: #1f2933 }
  .title { font-size: 17px; font-weight: 600 }
  .quiet { fill: #5f6c7b; font-size: 13px }
  .file { font: 13px ui-monospace, 'DejaVu Sans Mono', monospace }
  .box { fill: #ffffff; stroke: #c5cdd6 }
  .page { fill: #f7f8fa }
  .arrow { stroke: #5f6c7b; stroke-width: 1.5; marker-end: url(#head); fill: none }
"""
BLUES = ("#1b6ca8", "#3d87bd", "#6ba6d0", "#9cc5e1")
ORANGE = "#c8641b"
PATCH = 18

STAGES = (  # left edge, name, two lines that say what it does, patches per side of the image
    (228, "pretrain", "many images,", 4, "at a small size"),
    (472, "upscale", "larger images: the position", 6, "table is resized to fit"),
    (716, "finetune", "the images of your task,", 6, "with a new head"),
)


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """A line of text that begins at (x, y)."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{words}</text>'


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """A straight arrow."""
    return f'<path class="arrow" d="M{x1:g} {y1:g} L{x2:g} {y2:g}"/>'


def patches(x: float, y: float, side: int) -> str:
    """An image cut into side x side patches."""
    drawn = []
    for row in range(side):
        for column in range(side):
            colour = BLUES[(row * row + 2 * column + row * column) % len(BLUES)]
            drawn.append(square(x + column * PATCH, y + row * PATCH, PATCH - 2, PATCH - 2, colour))
    return "\n".join(drawn)


def head(x: float, y: float, colour: str) -> str:
    """What the head says of an image: a bar per class."""
    widths = (22, 58, 12, 34)
    return "\n".join(square(x, y + 16 * i, width, 10, colour) for i, width in enumerate(widths))


def square(x: float, y: float, width: float, height: float, colour: str) -> str:
    """A filled rectangle."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="2" fill="{colour}"/>'
    )


def box(x: float, y: float, width: float, height: float) -> str:
    """A card with round corners."""
    return f'<rect class="box" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8"/>'


def picture() -> str:
    """The whole file."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        ' aria-label="Images in tar shards go through pretrain, upscale and finetune; each stage'
        ' leaves weights and a manifest, and the next one starts from them.">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8"'
        ' markerHeight="8" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#5f6c7b"/></marker>'
        "</defs>",
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="10"/>',
        text(20, 42, "your images", "title"),
        text(20, 62, "WebDataset tars", "quiet"),
    ]
    for shard in range(3):
        y = 82 + shard * 34
        parts += [box(20, y, 150, 27), text(31, y + 18, f"train-00000{shard}.tar", "file")]
    parts += [text(20, 202, "in a folder or on S3", "quiet"), arrow(176, 130, 222, 130)]
    for x, name, does, side, more in STAGES:
        colour = ORANGE if name == "finetune" else BLUES[0]
        middle = 98 + side * PATCH / 2
        parts += [
            box(x, 20, 224, 196),
            text(x + 14, 46, name, "title"),
            text(x + 14, 66, does, "quiet"),
            text(x + 14, 84, more, "quiet"),
            patches(x + 14, 98, side),
            arrow(x + 20 + side * PATCH, middle, x + 42 + side * PATCH, middle),
            head(x + 50 + side * PATCH, middle - 29, colour),
            arrow(x + 112, 220, x + 112, 240),
            text(x + 14, 260, "weights.safetensors", "file"),
            text(x + 14, 278, "manifest.json", "file"),
        ]
    for x, *_ in STAGES[1:]:
        parts.append(arrow(x - 18, 130, x - 3, 130))
    parts += [
        text(20, 260, "each stage leaves", "quiet"),
        text(20, 278, "and the next one reads", "quiet"),
        text(
            20,
            314,
            "Ray Data reads and decodes &#8594; Ray Train workers train with DeepSpeed ZeRO 0-3"
            " &#8594; metrics and pictures in MLflow",
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(picture(), end="")
