"""The Python of docs/use-the-model.md runs on what the commands of that page write."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.exporting.command import main
from tests.pipelines.conftest import Said
from tests.pipelines.exporting.test_files_to_logits import needs_onnx, needs_transformers, ours
from tests.pipelines.support.photographs import CHINA, Photos
from tests.test_docs import ROOT, blocks

_TIMM, _TRANSFORMERS, _ONNX, _TORCH = (
    block for _, block in blocks(ROOT / "docs" / "use-the-model.md", "python")
)
needs_torchvision = pytest.mark.skipif(
    find_spec("torchvision") is None, reason="torchvision is not installed"
)


@pytest.mark.parametrize(
    ("to", "snippets"),
    [
        pytest.param({"timm": "timm"}, [_TIMM], marks=needs_torchvision, id="timm"),
        pytest.param({"hf": "hf"}, [_TRANSFORMERS], marks=needs_transformers, id="transformers"),
        pytest.param(
            {"onnx": "onnx", "torch-export": "torch"}, [_ONNX, _TORCH], marks=needs_onnx, id="onnx"
        ),
    ],
)
def test_a_snippet_computes_our_logits(
    to: dict[str, str],
    snippets: list[str],
    called: Callable[..., Said],
    photos: Photos,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cat.jpg").write_bytes(CHINA)
    for form, folder in to.items():
        options = ("--run", "photos", "--to", form, "--out", f"photos-{folder}")
        assert called(main, "export", *photos.place(), *options).code == 0
    names: dict[str, Any] = {}
    wanted = ours(CHINA, photos)
    for snippet in snippets:
        exec(snippet, names)
        found = torch.as_tensor(names["logits"])[0].detach()
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    if "best" in names:
        assert names["best"] == ("china", "flower")[int(wanted.argmax())]
