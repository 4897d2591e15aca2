"""From a JPEG to outputs: a library's own preprocessing and model against ours, layout by layout.

    python -m tests.pipelines.support.public_matrix     prints the table of docs/checkpoints.md

A folder is read by our `infer_config` and `import_checkpoint`; the same file goes through both. Of
a square photograph the libraries cut whole pixels, as we do; of a wide one they round its longer
side and its margins, by up to half a pixel.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

import vit
from pipelines.recipes.data import Data
from storage.decode import decode
from tests.pipelines.support.photographs import CHINA, jpeg
from tests.pipelines.support.public_layouts import NAMES, layout
from tests.vit.support.peers import import_timm
from vit.errors import BadModel

SQUARE, WIDE = jpeg(CHINA, (100, 0, 527, 427)), CHINA
EQUAL = 1e-5
"""Largest relative difference of outputs, computed from the same pixels, that counts as none."""


@dataclass(frozen=True)
class Row:
    """A line of the table; differences are of outputs, relative to the largest of them."""

    name: str
    library: str
    parameters: int
    crop: str
    same_pixels: float
    square: float
    wide: float
    back: tuple[str, ...]
    """Libraries in which the exported folder computes the same of the same pixels."""
    notes: tuple[str, ...]


@torch.no_grad()
def measure(name: str, folder: Path) -> Row:
    """Write the layout into an empty folder, read it, and compare."""
    theirs = layout(name, folder / "theirs")
    found = vit.infer_config(folder / "theirs")
    weights, _ = vit.import_checkpoint(folder / "theirs", found.config)
    ours = vit.build_model(found.config).eval()
    ours.load_state_dict(weights)
    crop = Data().evaluated_by(found.crop).val_crop(found.config.image_hw[0])

    def from_file(data: bytes) -> float:
        decoded = torch.tensor(decode(data, crop, seed=0, epoch=0, index=0)[None])
        return _apart(ours(vit.normalize(decoded)), theirs.output(theirs.pixels(data)))

    pixels, shape = theirs.pixels(WIDE), (1, 3, 1, 1)
    plain = pixels * torch.tensor(theirs.std).view(shape) + torch.tensor(theirs.mean).view(shape)
    wanted = theirs.output(pixels)
    return Row(
        name=name,
        library=theirs.library,
        parameters=sum(p.numel() for p in ours.parameters()),
        crop=str(found.crop or "unknown"),
        same_pixels=_apart(ours(2 * plain - 1), wanted),
        square=from_file(SQUARE),
        wide=from_file(WIDE),
        back=tuple(
            library
            for library, logits in _exported(weights, found.config, folder)
            if _apart(logits(2 * plain - 1), wanted) < EQUAL
        ),
        notes=found.notes,
    )


def _apart(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def _exported(
    weights: Mapping[str, Tensor], config: vit.Config, folder: Path
) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """The exported folder in each library that has such a model."""
    for library, write in (("timm", vit.export_timm), ("transformers", vit.export_hugging_face)):
        try:
            write(weights, config, folder / library)
        except BadModel:
            continue
        yield library, _loaded(library, folder / library, head=bool(config.num_classes))


def _loaded(library: str, folder: Path, *, head: bool) -> Callable[[Tensor], Tensor]:
    if library == "timm":
        return import_timm().create_model(f"local-dir:{folder}", pretrained=True).eval()
    import transformers

    kind: Any = transformers.AutoModelForImageClassification if head else transformers.AutoModel
    model = kind.from_pretrained(folder).eval()
    return lambda pixels: model(pixel_values=pixels)["logits" if head else "pooler_output"]


def table(rows: Iterator[Row]) -> Iterator[str]:
    """Lines of Markdown."""
    yield "| model | library | parameters | crop | same pixels | square JPEG | wide JPEG | back |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        differences = " | ".join(f"{d:.0e}" for d in (row.same_pixels, row.square, row.wide))
        cells = (f"`{row.name}`", row.library, f"{row.parameters:,}", row.crop, differences)
        yield f"| {' | '.join(cells)} | {', '.join(row.back)} |"


def quietly(name: str) -> Row:
    """Measure in a folder that is removed, without what the libraries print."""
    nowhere = io.StringIO()
    with TemporaryDirectory() as folder, redirect_stdout(nowhere), redirect_stderr(nowhere):
        return measure(name, Path(folder))


if __name__ == "__main__":
    for line in table(quietly(name) for name in NAMES):
        print(line, flush=True)
