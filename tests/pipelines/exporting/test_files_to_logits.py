"""From a JPEG file to logits: the exported folder in other libraries against our own evaluation.

Between them lie two decoders and two resizers. Where the sides divide they agree to a grey level;
docs/use-the-model.md says where and why they do not.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import vit
from pipelines.exporting.command import main
from pipelines.recipes.stage import Stage
from storage.decode import decode
from tests.pipelines.conftest import Said
from tests.pipelines.support.foreign_pixels import as_input, timm_pixels, transformers_pixels
from tests.pipelines.support.photographs import CHINA, FLOWER, STAGE, Photos, jpeg
from tests.vit.support.peers import import_timm

Called = Callable[..., Said]
CENTER = replace(STAGE, data=replace(STAGE.data, eval_crop="center"))
needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
needs_transformers = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed"
)
needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="onnx, onnxscript or onnxruntime is not installed",
)


def ours(data: bytes, photos: Photos, stage: Stage = STAGE) -> Tensor:
    """Logits [C] as evaluation computes them, of the average."""
    crop = stage.data.val_crop(stage.image_size)
    pixels = torch.tensor(decode(data, crop, seed=0, epoch=0, index=0))
    model = vit.build_model(stage.model)
    model.load_state_dict(photos.average)
    with torch.no_grad():
        return model.eval()(vit.normalize(pixels[None]))[0]


def export(called: Called, photos: Photos, to: str, out: Path, run: str = "photos") -> Path:
    said = called(main, "export", *photos.place(), "--run", run, "--to", to, "--out", str(out))
    assert said.code == 0, said.err
    assert ", averaged for" in said.out
    assert (out / "README.md").exists()
    return out


def timm_logits(folder: Path) -> Callable[[bytes], Tensor]:
    """timm's own model and configuration of the folder."""
    timm = import_timm()
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    said = timm.data.resolve_model_data_config(model)
    assert said["interpolation"] == "bicubic"
    pixels = timm_pixels(said)
    return lambda data: model(pixels(data))[0]


def transformers_logits(folder: Path) -> Callable[[bytes], Tensor]:
    from transformers import ViTForImageClassification

    pixels = transformers_pixels(folder)
    model = ViTForImageClassification.from_pretrained(folder).eval()
    return lambda data: model(pixel_values=pixels(data)).logits[0]


LIBRARIES = [
    pytest.param("timm", timm_logits, marks=needs_timm),
    pytest.param("hf", transformers_logits, marks=needs_transformers),
]


@pytest.mark.parametrize(("to", "loaded"), LIBRARIES)
@torch.no_grad()
def test_a_resized_photograph_gives_our_logits(
    to: str,
    loaded: Callable[[Path], Callable[[bytes], Tensor]],
    called: Called,
    photos: Photos,
    tmp_path: Path,
) -> None:
    logits = loaded(export(called, photos, to, tmp_path / "out"))
    for data in (CHINA, FLOWER):
        torch.testing.assert_close(logits(data), ours(data, photos), atol=5e-5, rtol=0)
    away = ours(CHINA, photos) - ours(FLOWER, photos)
    assert away.abs().max() > 0.01  # two hundred tolerances


@pytest.mark.parametrize(("to", "loaded"), LIBRARIES)
@torch.no_grad()
def test_a_centre_crop_gives_our_logits_where_its_sides_divide(
    to: str,
    loaded: Callable[[Path], Callable[[bytes], Tensor]],
    called: Called,
    photos: Photos,
    tmp_path: Path,
) -> None:
    photos.commit(CENTER, f"center-{to}")
    logits = loaded(export(called, photos, to, tmp_path / "out", f"center-{to}"))
    square = jpeg(CHINA, (0, 0, 384, 384))  # 384 -> 256, of which 224: margins of 16 and of 24
    torch.testing.assert_close(logits(square), ours(square, photos, CENTER), atol=5e-5, rtol=0)
    other = ours(square, photos, STAGE)  # the crop that the stage does not evaluate with
    assert (logits(square) - other).abs().max() > 1e-3
    # 427 -> 256 is no whole factor: they round sides and margins to whole pixels, we do not
    torch.testing.assert_close(logits(CHINA), ours(CHINA, photos, CENTER), atol=5e-3, rtol=0)


def onnx_logits(folder: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def program_logits(folder: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(folder / "model.pt2").module()


@pytest.mark.parametrize(
    ("to", "loaded"),
    [
        pytest.param("onnx", onnx_logits, marks=needs_onnx),
        pytest.param("torch-export", program_logits),
    ],
)
@torch.no_grad()
def test_a_program_computes_our_logits_of_files_cut_as_it_says(
    to: str,
    loaded: Callable[[Path], Callable[[Tensor], Tensor]],
    called: Called,
    photos: Photos,
    tmp_path: Path,
) -> None:
    photos.commit(CENTER, f"center-{to}")
    folder = export(called, photos, to, tmp_path / "out", f"center-{to}")
    said: Mapping[str, Any] = json.loads((folder / "preprocessing.json").read_text())
    assert said["class_names"] == ["china", "flower"]
    logits = loaded(folder)
    inputs = [cut(data, said) for data in (CHINA, FLOWER)]
    wanted = torch.stack([ours(data, photos, CENTER) for data in (CHINA, FLOWER)])
    torch.testing.assert_close(logits(torch.cat(inputs)), wanted, atol=1e-4, rtol=0)


def cut(data: bytes, said: Mapping[str, Any]) -> Tensor:
    """What preprocessing.json says, with Pillow."""
    image = Image.open(BytesIO(data)).convert("RGB")
    assert (said["crop"], said["interpolation"]) == ("center", "bicubic")
    short = min(image.size) * said["crop_fraction"]
    left, upper = (image.width - short) / 2, (image.height - short) / 2
    box = (left, upper, left + short, upper + short)
    height, width = said["image_size"]
    resized = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    return as_input(np.asarray(resized), said["mean"], said["std"])
