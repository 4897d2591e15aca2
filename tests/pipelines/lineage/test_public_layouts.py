"""From a JPEG to outputs: timm's and transformers' own preprocessing and model against ours.

The whole table takes minutes; here is a layout of each kind of preprocessing.
"""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("timm") is None or find_spec("transformers") is None:
    pytest.skip("timm or transformers is not installed", allow_module_level=True)

from tests.pipelines.support.public_layouts import NAMES
from tests.pipelines.support.public_matrix import EQUAL, measure

PAGE = Path(__file__).parents[3] / "docs" / "checkpoints.md"
ROWS = re.compile(
    r"^\| `([\w/-]+)` \| (?:timm|transformers) \|.* (\S+) \| (\S+) \| (\S+) \| [^|]*\|$", re.M
)


@pytest.mark.parametrize(
    ("name", "crop", "square"),
    [
        ("vit_tiny_patch16_224", "center 0.9032", 2e-4),
        ("google/siglip-base-patch16-224", "resize", 1e-3),
        ("openai/clip-vit-base-patch32", "center 1", 1e-3),
        ("facebook/deit-base-distilled-patch16-224", "unknown", 1.0),
    ],
)
def test_a_photograph_gives_the_outputs_of_its_library(
    name: str, crop: str, square: float, tmp_path: Path
) -> None:
    row = measure(name, tmp_path)
    assert row.crop == crop
    assert row.same_pixels < EQUAL
    assert row.square < square
    assert any("not a crop of this program" in note for note in row.notes) == (crop == "unknown")


def test_the_page_has_every_layout_and_differences_that_hold() -> None:
    rows = ROWS.findall(PAGE.read_text())
    assert tuple(name for name, *_ in rows) == NAMES
    assert all(float(same) < EQUAL for _, same, _, _ in rows)
