"""Pictures of committed weights, before and after an upscale, and of models that lack parts."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vit
from pipelines.inspection.inspection import inspect_after_stage, inspect_weights
from pipelines.inspection.measure import measure
from pipelines.inspection.samples import Samples, read_fixed_samples
from pipelines.inspection.subject import Subject, before_upscale, committed_subject
from pipelines.lineage.source import committed_source
from pipelines.recipes.digits import DATA, FINETUNE, PRETRAIN, UPSCALE
from storage.dataset import Dataset, load_dataset
from storage.decode import Crop
from storage.selection import EVERYTHING, Selection
from tests.pipelines.support.committed import commit_stage

NAMES = {"filters.png", "position-similarity.png", "attention-distance.png"}


@pytest.fixture
def digits(local_data: str) -> Dataset:
    return load_dataset(f"{local_data}/digits")


@pytest.fixture
def upscaled(tmp_path: Path, local_data: str) -> tuple[str, str]:
    """Places of a pre-trained stage and of its upscale."""
    root = str(tmp_path / "runs")
    before = commit_stage(root, PRETRAIN, local_data)
    after = commit_stage(root, replace(UPSCALE, seed=1), local_data, parent=before)
    return before[0], after[0]


def size_of(png: bytes) -> tuple[int, int]:
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    assert np.asarray(picture.convert("RGB")).std() > 5, "an empty picture"
    return picture.size


def test_samples_are_the_same_every_time_and_spread_over_the_split(digits: Dataset) -> None:
    crop = Crop(image_size=16, kind="resize")
    read = [
        read_fixed_samples(digits, "val", selection=EVERYTHING, count=50, crop=crop)
        for _ in range(2)
    ]
    assert read[0].data == read[1].data
    assert len(set(read[0].data)) == 50
    assert len(set(read[0].classes)) == 10
    assert read[0].cut(crop).shape == (50, 16, 16, 3)
    some = read_fixed_samples(
        digits, "val", selection=Selection(classes=(3,)), count=10_000, crop=crop
    )
    assert set(some.classes) == {"3"}
    assert 20 < len(some) < 60  # all there are


def distances(subject: Subject, samples: Samples) -> np.ndarray:
    found = measure(subject, samples, DATA).distances
    assert found is not None
    return found


def rollout(subject: Subject, samples: Samples) -> np.ndarray:
    found = measure(subject, samples, DATA).rollout
    assert found is not None
    return found


def test_distances_are_the_mean_over_images_however_they_are_batched(
    digits: Dataset, upscaled: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = committed_subject(committed_source(upscaled[0]))
    crop = DATA.val_crop(16)
    samples = read_fixed_samples(digits, "val", selection=EVERYTHING, count=9, crop=crop)
    whole, flow = distances(subject, samples), rollout(subject, samples)
    assert flow.shape == (8, 4, 4)
    monkeypatch.setattr("pipelines.inspection.measure._BATCH_NUMBERS", 17 * 17 * 4 * 2)
    parts = distances(subject, samples)
    np.testing.assert_allclose(rollout(subject, samples), flow, rtol=1e-4)
    singles = [
        distances(subject, replace(samples, data=(data,), classes=("?",))) for data in samples.data
    ]
    assert whole.shape == (4, 4)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    np.testing.assert_allclose(np.mean(singles, axis=0), whole, rtol=1e-5)


def test_an_upscale_is_shown_before_and_after(upscaled: tuple[str, str], digits: Dataset) -> None:
    before, after = (committed_subject(committed_source(uri)) for uri in upscaled)
    alone = inspect_weights([after], digits, DATA, count=12)
    both = inspect_weights([before, after], digits, DATA, count=12)
    assert both.notes == ()
    assert set(both.pictures) == NAMES | {"attention-rollout.png"}
    for name in NAMES:
        assert size_of(both.pictures[name])[0] > 1.5 * size_of(alone.pictures[name])[0]
    rows = [size_of(one.pictures["attention-rollout.png"])[1] for one in (alone, both)]
    assert rows[1] > rows[0] + 100
    record = json.loads(both.files()["inspection.json"])
    assert [one["title"] for one in record] == ["pretrain, 16 px", "upscale, 24 px"]
    assert np.shape(record[1]["mean_attention_distance_pixels"]) == (4, 4)
    assert both.pictures == inspect_weights([before, after], digits, DATA, count=12).pictures


def test_the_parent_is_found_only_where_the_resolution_changed(
    upscaled: tuple[str, str], tmp_path: Path, local_data: str
) -> None:
    before, after = upscaled
    source = committed_source(after)
    manifest = source.committed
    assert manifest.parent is not None
    found = before_upscale(source)
    assert found is not None
    assert found.title == "pretrain, 16 px"
    assert before_upscale(committed_source(before)) is None
    other = replace(manifest, parent=replace(manifest.parent, weights_sha256="0" * 64))
    assert before_upscale(replace(source, manifest=other)) is None
    gone = replace(manifest, parent=replace(manifest.parent, attempt="gone"))
    assert before_upscale(replace(source, manifest=gone)) is None
    uri, _ = commit_stage(
        str(tmp_path / "runs"), FINETUNE, local_data, parent=(after, committed_manifest(after))
    )
    assert before_upscale(committed_source(uri)) is None


def committed_manifest(uri: str) -> dict:
    return json.loads((Path(uri) / "manifest.json").read_text())


def test_what_a_model_lacks_is_a_line_and_the_rest_is_drawn(digits: Dataset) -> None:
    small = replace(PRETRAIN.model, depth=1, pos_embed="none", pool="gap", registers=2)
    hybrid = vit.ViTConfig(
        image_size=16, patch_size=1, stem_blocks=(1,), width=32, depth=1, heads=2, mlp_dim=32
    )
    bit = vit.BiTConfig(image_size=16, blocks=(1,), num_classes=7)
    expected = {
        small: ({"filters.png", "attention-distance.png"}, "no position embedding"),
        hybrid: ({"position-similarity.png", "attention-distance.png"}, "feature map"),
        bit: (set(), "no attention: a BiT ResNet"),
    }
    for config, (names, said) in expected.items():
        subject = Subject(name="m", model=vit.build_model(config).eval())
        found = inspect_weights([subject], digits, DATA, count=4)
        assert set(found.pictures) - {"attention-rollout.png"} == names
        assert any(said in note for note in found.notes), found.notes
        assert all("\n" not in note for note in found.notes)


def test_class_names_are_text_and_not_formulas(digits: Dataset, upscaled: tuple[str, str]) -> None:
    hostile = replace(digits, classes=("$\\frac{", "\u4e2d\u6587", "<b>", *digits.classes[3:]))
    found = inspect_weights(
        [committed_subject(committed_source(upscaled[0]))], hostile, DATA, count=40
    )
    size_of(found.pictures["attention-rollout.png"])


def test_after_a_stage_the_files_are_logged(upscaled: tuple[str, str], local_data: str) -> None:
    logged: dict[str, bytes] = {}
    notes: list[str] = []
    inspect_after_stage(
        upscaled[1], f"{local_data}/digits", log_file=logged.__setitem__, note=notes.append
    )
    assert notes == []
    expected = {*NAMES, "attention-rollout.png", "inspection.json"}
    assert set(logged) == {f"pictures/{name}" for name in expected}
    assert len(json.loads(logged["pictures/inspection.json"])) == 2


def test_what_goes_wrong_after_a_stage_is_one_line(
    upscaled: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    inspect_after_stage(
        upscaled[1], str(tmp_path / "nothing"), log_file=lambda *_: None, note=notes.append
    )
    assert len(notes) == 1
    assert notes[0].startswith("warning: no pictures of the weights: no dataset.json under")
    monkeypatch.setattr("pipelines.inspection.inspection._LARGEST_BYTES", 1)
    inspect_after_stage(upscaled[1], "unread", log_file=lambda *_: None, note=notes.append)
    assert f"pipelines/inspect_weights.py --weights {upscaled[1]}" in notes[1]
