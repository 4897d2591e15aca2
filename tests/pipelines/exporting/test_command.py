"""`pipelines/export.py` as a user calls it: what it writes, and what it refuses."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from pipelines.exporting.command import main
from tests.pipelines.conftest import Said
from tests.pipelines.support.photographs import METRICS, MODEL, STAGE, Photos
from tests.vit.support.peers import random_model
from vit import Preprocessing, ViTConfig, export_timm, infer_config

Export = Callable[..., Said]


@pytest.fixture
def export(called: Callable[..., Said], photos: Photos, tmp_path: Path) -> Export:
    """Call the script for run `photos`, into `out`; later options replace these."""

    def call(*arguments: str, to: str = "timm") -> Said:
        usual = ("--run", "photos", "--to", to, "--out", str(tmp_path / "out"))
        return called(main, "export", *photos.place(), *usual, *arguments)

    return call


def header(folder: Path) -> dict[str, Any]:
    _, text, _ = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(text)


@pytest.mark.parametrize(("average", "key"), [("auto", "val_ema/"), ("live", "val/")])
def test_the_card_says_where_the_exported_weights_come_from(
    average: str, key: str, export: Export, photos: Photos, tmp_path: Path
) -> None:
    assert export("--average", average).code == 0
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    is_average = bool((tensors["head.weight"] == photos.average["head.weight"]).all())
    assert is_average == (average == "auto")

    uri, manifest = photos.commit(replace(STAGE, steps=30), f"card-{average}")
    said = header(tmp_path / "out")
    assert said["library_name"] == "timm"
    assert said["pipeline_tag"] == "image-classification"
    assert said["vit_on_ray"]["stage"] == "finetune"
    assert said["vit_on_ray"]["run"] == "photos"
    assert said["vit_on_ray"]["weights_sha256"] == manifest_of(photos, "photos", average)
    (results,) = said["model-index"][0]["results"]
    assert results["dataset"]["revision"] == manifest["dataset"]["digest"]
    assert results["metrics"] == [{"type": "accuracy", "value": METRICS[f"{key}accuracy"]}]
    assert "license" not in said
    card = (tmp_path / "out" / "README.md").read_text()
    assert str(Path(uri).parents[3]) not in card
    assert "seconds" not in card
    assert said["model-index"][0]["name"].startswith("photos ")


def manifest_of(photos: Photos, run: str, average: str) -> str:
    """SHA-256 of the weights in the manifest of a run with one attempt."""
    (path,) = Path(photos.storage_root, run).glob("finetune/*/manifest.json")
    name = "weights.safetensors" if average == "live" else "weights_ema.safetensors"
    return json.loads(path.read_text())["files"][name]["sha256"]


def test_the_hub_reads_the_card(export: Export, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    assert export(to="hf").code == 0
    data = hub.ModelCard.load(tmp_path / "out" / "README.md").data
    assert data.library_name == "transformers"
    assert [result.metric_value for result in data.eval_results] == [0.75]


def test_the_preprocessing_is_that_of_the_evaluation(export: Export, tmp_path: Path) -> None:
    assert export().code == 0
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert said["label_names"] == ["china", "flower"]
    assert said["pretrained_cfg"]["crop_pct"] == 1.0
    assert said["pretrained_cfg"]["crop_mode"] == "squash"


def test_an_empty_folder_is_filled_and_a_full_one_refused(export: Export, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert export().code == 0
    said = export()
    assert said.code == 2
    assert str(tmp_path / "out") in said.err
    assert len(said.err.splitlines()) == 1
    (tmp_path / "file").write_text("mine")
    assert export("--out", str(tmp_path / "file")).code == 2
    assert (tmp_path / "file").read_text() == "mine"
    assert export("--out", "s3://bucket/model").code == 2


def test_a_failed_export_leaves_nothing(export: Export, photos: Photos, tmp_path: Path) -> None:
    """No classifier of transformers' averages the patches before the last norm."""
    pooled = replace(MODEL, pool="gap", fc_norm=True)
    save_file(random_model(pooled).state_dict(), tmp_path / "gap.safetensors")
    weights = ("--weights", str(tmp_path / "gap.safetensors"), "--only", "finetune")
    shape = ("--finetune.model.pool", "gap", "--finetune.model.fc-norm")
    shape += ("--finetune.model.image-size", "224")
    sizes = [
        argument
        for name in ("patch_size", "width", "depth", "heads", "mlp_dim", "num_classes")
        for argument in (f"--finetune.model.{name.replace('_', '-')}", str(getattr(MODEL, name)))
    ]
    options = (*weights, *shape, *sizes, "--finetune.data.dataset", "photos")
    said = export(*options, to="hf")
    assert said.code == 2
    assert "fc_norm True" in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gap.safetensors"]
    assert export(*options, "--finetune.init-image-size", "224").code == 0
    assert header(tmp_path / "out")["vit_on_ray"].keys() == {"weights_sha256"}


def test_a_public_checkpoint_is_exported_in_its_own_model(export: Export, tmp_path: Path) -> None:
    own = replace(MODEL, image_size=64, num_classes=5)
    crop = Preprocessing(crop_fraction=64 / 80)
    export_timm(random_model(own).state_dict(), own, tmp_path / "public", preprocessing=crop)
    said = export("--weights", str(tmp_path / "public"))
    assert said.code == 0, said.err
    found = infer_config(tmp_path / "out")
    assert (found.config, found.crop) == (own, crop)


def test_a_public_backbone_becomes_its_family_of_transformers(
    export: Export, tmp_path: Path
) -> None:
    own = replace(MODEL, image_size=64, num_classes=0, layer_scale=True, mlp_dim=MODEL.width * 2)
    export_timm(random_model(own).state_dict(), own, tmp_path / "public")
    said = export("--weights", str(tmp_path / "public"), to="hf")
    assert said.code == 0, said.err
    assert json.loads((tmp_path / "out/config.json").read_text())["model_type"] == "dinov2"
    assert header(tmp_path / "out")["pipeline_tag"] == "image-feature-extraction"
    assert "AutoModel.from_pretrained" in (tmp_path / "out/README.md").read_text()


def test_what_bare_weights_leave_open_is_asked_for_in_words_that_answer(
    export: Export, tmp_path: Path
) -> None:
    own = replace(MODEL, image_size=64, num_classes=5)
    bare = tmp_path / "bare.safetensors"
    save_file(random_model(own).state_dict(), bare)
    said = export("--weights", str(bare))
    assert said.code == 2
    assert "--heads" in said.err
    assert export("--weights", str(bare), "--heads", str(own.heads)).code == 0
    found = infer_config(tmp_path / "out").config
    assert isinstance(found, ViTConfig)
    assert (found.heads, found.image_size) == (own.heads, own.image_size)


def test_names_of_classes_that_are_not_known_are_numbers_or_a_file(
    export: Export, tmp_path: Path
) -> None:
    nowhere = ("--place.data-root", str(tmp_path / "nowhere"))
    said = export(*nowhere, to="hf")
    assert said.code == 0
    assert "--class-names" in said.out
    labels = json.loads((tmp_path / "out" / "config.json").read_text())["id2label"]
    assert labels == {"0": "LABEL_0", "1": "LABEL_1"}

    (tmp_path / "names.txt").write_text("Großstadt\nBlume\n", encoding="utf-8")
    named = ("--class-names", str(tmp_path / "names.txt"), "--out", str(tmp_path / "named"))
    assert export(*nowhere, *named, to="hf").code == 0
    labels = json.loads((tmp_path / "named" / "config.json").read_text())["id2label"]
    assert labels == {"0": "Großstadt", "1": "Blume"}

    (tmp_path / "names.txt").write_text("one\n")
    said = export(*nowhere, *named, "--out", str(tmp_path / "third"))
    assert said.code == 2
    assert "1 names" in said.err


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--run", "elsewhere"), "elsewhere"),
        (("--parent", "0123456789abcdef"), "0123456789abcdef"),
        (("--only", "middle"), "middle"),
        (("--force",), "Unrecognized options: --force"),
        (("--weights", "nowhere.npz"), "nowhere.npz"),
        (("--class-names", "nowhere.txt"), "nowhere.txt"),
        (("--to", "zip"), "zip"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    arguments: tuple[str, ...], found: str, export: Export, tmp_path: Path
) -> None:
    said = export(*arguments)
    assert said.code == 2
    assert found in said.err
    assert len(said.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
