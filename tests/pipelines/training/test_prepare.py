"""What a stage is checked for before anything is started, and what its plan remembers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cluster.settings import Place
from pipelines.cli.options import read_command
from pipelines.recipes.digits import PRETRAIN
from pipelines.training.prepare import Plan, check_stage, make_plan
from storage.pack import pack
from storage.pack.folder import Folder
from storage.selection import Selection
from vit import ViTConfig, build_model, export_timm


@pytest.fixture
def one_class(tmp_path: Path) -> Place:
    """A data root with a dataset `photos`, packed one level too high."""
    for split in ("train", "val"):
        folder = tmp_path / "photos" / split / "ILSVRC"
        folder.mkdir(parents=True)
        for i in range(64):
            pixels = np.full((16, 16, 3), i, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    pack(Folder(tmp_path / "photos"), str(tmp_path / "data" / "photos"))
    return Place(data_root=str(tmp_path / "data"))


def test_training_on_one_class_alone_is_refused_unless_it_is_asked_for(one_class: Place) -> None:
    data = replace(PRETRAIN.data, dataset="photos", selection=Selection())
    stage = replace(PRETRAIN, data=data, model=replace(PRETRAIN.model, num_classes=1))
    wanted = r"photos has one class alone, 'ILSVRC'.* --stage\.data\.selection\.classes 0"
    with pytest.raises(ValueError, match=wanted) as error:
        check_stage(stage, one_class)
    assert "\n" not in str(error.value)
    for asked in (Selection(classes=(0,)), Selection(labels=(0,))):
        chosen = replace(stage, data=replace(data, selection=asked))
        assert check_stage(chosen, one_class).dataset.classes == ("ILSVRC",)
    check_stage(replace(stage, steps=0), one_class)  # nothing is trained


def plan_from(init: str, place: list[str]) -> Plan:
    arguments = ["--stage.init", init, *place]
    command = read_command(arguments, stage_name="pretrain", prog="pretrain.py", description="")
    (stage,) = command.stages
    return make_plan(stage, command, check_stage(stage, command.place))


def test_a_stage_is_named_by_what_its_checkpoint_holds(place: list[str], tmp_path: Path) -> None:
    assert isinstance(PRETRAIN.model, ViTConfig)
    model = replace(PRETRAIN.model, head="linear")
    for name, seed in (("a", 1), ("moved", 1), ("other", 2)):
        export_timm(build_model(model, seed=seed).state_dict(), model, tmp_path / name)
    first, moved, other = (
        plan_from(str(tmp_path / name), place) for name in ("a", "moved", "other")
    )
    assert first.fingerprint == moved.fingerprint != other.fingerprint
    record = first.lineage().to_json()["init"]
    assert first.init
    assert moved.init
    assert other.init
    assert record["uri"] == str(tmp_path / "a")
    assert record["sha256"] == first.init.sha256
    assert record["inferred_from"]["heads"] == "config.json"
    assert moved.init.sha256 == first.init.sha256 != other.init.sha256
