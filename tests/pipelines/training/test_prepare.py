"""What a stage is checked for before anything is started, and what its plan remembers."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cluster.settings import Place
from pipelines.cli.command_line import read_command
from pipelines.recipes.digits import PRETRAIN
from pipelines.recipes.errors import Mistake
from pipelines.recipes.general import GENERAL
from pipelines.training.prepare import Plan, check_stage, make_plan
from storage.index import load_index
from storage.pack import pack
from storage.pack.folder import Folder
from storage.pack.png import png
from storage.pack.source import Sample, Source, hash_of
from storage.selection import Selection, select
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


class OnlyTrain(Source):
    """Forty squares of one shade each, and no split to evaluate on."""

    @property
    def classes(self) -> tuple[str, ...]:
        return ("dark", "light")

    @property
    def splits(self) -> dict[str, int]:
        return {"train": 40}

    def read(self, split: str, i: int) -> Sample:
        data = png(np.full((16, 16), 200 * (i % 2) + i, dtype=np.uint8))
        return Sample(key=f"{i:04d}", suffix="png", data=data, label=i % 2)

    def identity(self) -> str:
        return hash_of("only train")


def test_a_dataset_without_a_validation_split_is_refused_with_options_that_hold_one_out(
    tmp_path: Path,
) -> None:
    pack(OnlyTrain(), str(tmp_path / "shades"))
    place = Place(data_root=str(tmp_path))
    (stage,) = GENERAL.stages
    data = replace(stage.data, dataset="shades")
    model = replace(PRETRAIN.model, num_classes=2)
    stage = replace(stage, data=data, model=model, steps=5, global_batch=4)
    with pytest.raises(Mistake, match="shades has no split 'val' to evaluate on") as error:
        check_stage(stage, place)
    said = str(error.value)
    assert "\n" not in said
    options = dict(re.findall(r"--stage\.data\.([\w.-]+) (\S+)", said))
    assert options == {"val-split": "train", "val-selection.samples": "4", "selection.skip": "4"}
    held_out = replace(
        data, val_split="train", val_selection=Selection(samples=4), selection=Selection(skip=4)
    )
    checked = check_stage(replace(stage, data=held_out), place)
    seen = [
        set(select(load_index(checked.dataset, "train"), chosen)[0].tolist())
        for chosen in (held_out.selection, held_out.val_selection)
    ]
    assert [len(each) for each in seen] == [36, 4]
    assert not seen[0] & seen[1]


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
    assert "crop" not in record["inferred_from"]  # the stage says otherwise
    same = replace(PRETRAIN.data, eval_crop="center", eval_fraction=16 / 18)
    checked = check_stage(replace(first.stage, data=same), Place(data_root=place[1]))
    assert checked.init
    assert checked.init.inferred_from["crop"] == "config.json"
    assert moved.init.sha256 == first.init.sha256 != other.init.sha256
