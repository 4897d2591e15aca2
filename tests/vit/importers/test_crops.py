"""How the files beside a checkpoint say that an image is cut, and what becomes of it here."""

import json
from pathlib import Path
from typing import Any

import pytest

import vit
from tests.vit.importers.public import TINY
from vit import Preprocessing
from vit.importers.crops import hugging_face_crop, timm_crop

SQUARE = {"height": 224, "width": 224}
# As the repositories of these models have them.
VIT = {"image_processor_type": "ViTImageProcessor", "size": 224, "do_resize": True, "resample": 3}
DINOV2 = {
    "image_processor_type": "BitImageProcessor",
    "size": {"shortest_edge": 256},
    "do_center_crop": True,
    "crop_size": SQUARE,
    "resample": 3,
}
CLIP = {
    "feature_extractor_type": "CLIPFeatureExtractor",
    "size": 224,
    "do_center_crop": True,
    "crop_size": 224,
    "resample": 3,
}
DEIT = CLIP | {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256}


@pytest.mark.parametrize(
    ("said", "crop"),
    [
        ({"crop_pct": 0.9, "crop_mode": "center"}, Preprocessing(crop_fraction=224 / 248)),
        ({"crop_pct": 0.875}, Preprocessing(crop_fraction=224 / 256)),
        ({"crop_pct": 1.0}, Preprocessing(crop_fraction=1.0)),
        ({"crop_pct": 1.0, "crop_mode": "squash"}, Preprocessing(crop="resize")),
        ({"crop_pct": 0.9, "crop_mode": "squash"}, None),
        ({"crop_pct": 0.9, "crop_mode": "border"}, None),
        ({"crop_pct": 1.2}, None),
        ({}, None),
    ],
)
def test_the_crop_of_timms_files(said: dict[str, Any], crop: Preprocessing | None) -> None:
    found, notes = timm_crop(said, 224)
    assert found == crop
    assert bool(notes) == (bool(said) and crop is None)
    assert all(str(value) in notes[0] for value in said.values() if notes)


@pytest.mark.parametrize(
    ("said", "crop"),
    [
        (VIT, Preprocessing(crop="resize")),
        (VIT | {"size": SQUARE}, Preprocessing(crop="resize")),
        (DINOV2, Preprocessing(crop_fraction=224 / 256)),
        (CLIP, Preprocessing(crop_fraction=1.0)),
        (DEIT, None),  # the whole image at 256 x 256, and its centre: in no way ours
        (DINOV2 | {"size": {"shortest_edge": 200}}, None),
        ({"size": 224, "do_resize": False}, None),
        ({}, None),
    ],
)
def test_the_crop_of_transformers_files(said: dict[str, Any], crop: Preprocessing | None) -> None:
    found, notes = hugging_face_crop(said)
    assert found == crop
    assert bool(notes) == (len(said) > 2 and crop is None)


@pytest.mark.parametrize(
    "found",
    [
        timm_crop({"crop_pct": 1.0, "interpolation": "bilinear"}, 224),
        hugging_face_crop(CLIP | {"resample": 2}),
    ],
)
def test_a_bilinear_filter_is_taken(found: tuple[Preprocessing, tuple[str, ...]]) -> None:
    assert found == (Preprocessing(crop_fraction=1.0, interpolation="bilinear"), ())


@pytest.mark.parametrize(
    "found",
    [
        timm_crop({"crop_pct": 1.0, "interpolation": "lanczos"}, 224),
        hugging_face_crop(CLIP | {"resample": 1}),
    ],
)
def test_a_filter_that_is_not_made_here_is_said(
    found: tuple[Preprocessing, tuple[str, ...]],
) -> None:
    crop, notes = found
    assert crop == Preprocessing(crop_fraction=1.0)
    assert ["interpolation lanczos" in note for note in notes] == [True]


def test_the_inferred_config_says_the_crop_and_its_file(tmp_path: Path) -> None:
    weights, crop = vit.build_model(TINY).state_dict(), Preprocessing(crop_fraction=32 / 35)
    vit.export_timm(weights, TINY, tmp_path / "timm", preprocessing=crop)
    found = vit.infer_config(tmp_path / "timm")
    assert (found.crop, found.inferred_from["crop"]) == (crop, "config.json")

    vit.export_hugging_face(weights, TINY, tmp_path / "hf", preprocessing=Preprocessing())
    found = vit.infer_config(tmp_path / "hf")
    assert found.crop == Preprocessing(crop_fraction=32 / 37)  # of whole pixels
    assert found.inferred_from["crop"] == "preprocessor_config.json"
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3}))
    found = vit.infer_config(tmp_path / "hf")
    assert (found.crop, found.inferred_from["crop"]) == (None, "unknown")


def test_a_bilinear_filter_survives_both_exports(tmp_path: Path) -> None:
    weights, crop = vit.build_model(TINY).state_dict(), Preprocessing(interpolation="bilinear")
    vit.export_timm(weights, TINY, tmp_path / "timm", preprocessing=crop)
    vit.export_hugging_face(weights, TINY, tmp_path / "hf", preprocessing=crop)
    for name in ("timm", "hf"):
        said = vit.infer_config(tmp_path / name).crop
        assert said is not None
        assert said.interpolation == "bilinear"


def test_timms_whole_pixels_survive_an_export() -> None:
    for size in (224, 256, 336, 384, 448, 518):
        for scaled in range(size, 2 * size):
            said = Preprocessing(crop_fraction=size / scaled).timm(size)
            assert timm_crop(said, size)[0] == Preprocessing(crop_fraction=size / scaled)
