import json
from dataclasses import asdict, replace

import pytest

from pipelines.recipes import RECIPES, find_recipe
from pipelines.recipes.data import Data
from pipelines.recipes.digits import DIGITS, FINETUNE, PRETRAIN, UPSCALE
from pipelines.recipes.errors import Mistake
from pipelines.recipes.fingerprint import fingerprint, flatten, plain, typed_values
from pipelines.recipes.stage import Recipe, Stage
from pipelines.recipes.streams import train_spec, val_spec
from storage.augment import AugmentConfig
from storage.selection import Selection
from vit import BiTConfig, ViTConfig, config_from_dict


def name_of(stage=PRETRAIN, digest="d", parent=None) -> str:
    return fingerprint(stage, dataset_digest=digest, parent=parent)


def test_fingerprint_is_the_same_for_the_same_content() -> None:
    assert name_of() == name_of(replace(PRETRAIN, seed=PRETRAIN.seed))
    assert len(name_of()) == 16


@pytest.mark.parametrize(
    "other",
    [
        {"stage": replace(PRETRAIN, seed=1)},
        {"stage": replace(PRETRAIN, model=replace(PRETRAIN.model, depth=5))},
        {"stage": replace(PRETRAIN, model=replace(PRETRAIN.model, drop_path_constant=True))},
        {"stage": replace(PRETRAIN, augment=AugmentConfig(three_augment=True))},
        {"stage": replace(PRETRAIN, augment=AugmentConfig(color_jitter=0.3))},
        {"stage": replace(PRETRAIN, loss="bce")},
        {
            "stage": replace(
                PRETRAIN, data=replace(PRETRAIN.data, selection=Selection(classes=(1,)))
            )
        },
        {"digest": "e"},
        {"parent": "0123456789abcdef"},
    ],
)
def test_fingerprint_changes_with_config_data_and_parent(other: dict) -> None:
    assert name_of(**other) != name_of()


@pytest.mark.parametrize(
    "data",
    [
        {"selection": Selection(classes=tuple(range(7)), samples=100)},
        {"selection": Selection(classes=tuple(range(7)), skip=1)},
        {"selection": Selection(classes=tuple(range(7)), labels=(0, 1, 2, 3, 4, 5, 5))},
        {"val_selection": Selection(samples=100)},
        {"balance": "sqrt"},
        {"balance": "uniform"},
        {"shares": (1.0, 3.0)},
        {"shares": (3.0, 1.0)},
    ],
)
def test_fingerprint_tells_parts_of_the_data_apart(data: dict) -> None:
    assert name_of(replace(PRETRAIN, data=replace(PRETRAIN.data, **data))) != name_of()


def test_what_was_committed_before_fields_were_added_keeps_its_name() -> None:
    assert name_of() == "718eb30c2c293fdb"  # as version 0.1.0 computed it
    assert name_of(Stage(name="vit")) == "ed75a2acf5bed43b"
    assert name_of(Stage(name="bit", model=BiTConfig())) == "87d267aa9c82f257"


def test_a_number_has_the_type_of_its_field_in_a_fingerprint() -> None:
    """The command line reads 10 as a float where a recipe's author wrote an int."""

    def named(magnitude: float, area: tuple[float, float], steps: float) -> str:
        augment = replace(PRETRAIN.augment, randaugment_magnitude=magnitude)
        data = replace(PRETRAIN.data, area=area)
        return name_of(replace(PRETRAIN, augment=augment, data=data, steps=steps))  # type: ignore[arg-type]  # as a careless recipe would

    assert named(10, (0.5, 1), 60) == named(10.0, (0.5, 1.0), 60.0)
    assert named(10, (0.5, 1), 60) != named(10.5, (0.5, 1), 60)
    with_init = replace(PRETRAIN, init="x.npz")
    of_ints, of_floats = (
        replace(with_init, init_std=(1, 1, 1)),
        replace(with_init, init_std=(1.0,) * 3),
    )
    names = {
        fingerprint(one, dataset_digest="d", parent=None, init="e") for one in (of_ints, of_floats)
    }
    assert len(names) == 1
    tall = replace(PRETRAIN.model, image_size=(16, 32))
    assert typed_values(tall)["image_size"] == [16, 32]


def test_a_checkpoint_names_a_stage_by_its_content_and_not_by_its_place() -> None:
    def named(init: str, digest: str) -> str:
        stage = replace(PRETRAIN, init=init)
        return fingerprint(stage, dataset_digest="d", parent=None, init=digest)

    assert named("a/x.npz", "one") == named("s3://b/x.npz", "one")
    assert named("a/x.npz", "one") != named("a/x.npz", "two")
    assert named("a/x.npz", "one") != name_of()
    with pytest.raises(AssertionError):  # a digest that was forgotten would name nothing
        name_of(replace(PRETRAIN, init="a/x.npz"))


def test_evaluation_takes_the_classes_that_are_trained_on_unless_it_names_some() -> None:
    chosen = Selection(classes=(7, 2), labels=(1, 0), per_class=3)
    for val, expected in (
        (Selection(), Selection(classes=(7, 2), labels=(1, 0))),
        (Selection(samples=5), Selection(classes=(7, 2), labels=(1, 0), samples=5)),
        (Selection(classes=(2, 7)), Selection(classes=(2, 7))),
    ):
        data = replace(PRETRAIN.data, selection=chosen, val_selection=val)
        assert val_spec(replace(PRETRAIN, data=data), "d").selection == expected


def test_evaluation_keeps_the_samples_that_fill_no_batch() -> None:
    """A validation split smaller than the global batch is fine: evaluation pads it."""
    dropped = replace(PRETRAIN, data=replace(PRETRAIN.data, tail="drop"), global_batch=4096)
    assert train_spec(dropped, "d").tail == "drop"
    assert val_spec(dropped, "d").tail == "carry"


def test_only_training_is_balanced() -> None:
    balanced = replace(PRETRAIN, data=replace(PRETRAIN.data, balance="sqrt"))
    assert train_spec(balanced, "d").balance == "sqrt"
    assert val_spec(balanced, "d").balance == "none"
    mixed = replace(PRETRAIN, data=replace(PRETRAIN.data, shares=(1.0, 3.0)))
    assert (train_spec(mixed, "d").shares, val_spec(mixed, "d").shares) == ((1.0, 3.0), None)


@pytest.mark.parametrize(
    "data",
    [
        {"shares": ()},
        {"shares": (1.0, -1.0)},
        {"shares": (0.0, 0.0)},
        {"shares": (1.0, float("nan"))},
        {"shares": (1.0, 2.0), "balance": "sqrt"},
    ],
)
def test_shares_that_say_nothing_are_refused(data: dict) -> None:
    with pytest.raises(Mistake, match=r"data\.shares"):
        replace(PRETRAIN.data, **data)


def test_a_stage_survives_json() -> None:
    stage = json.loads(json.dumps(plain(asdict(UPSCALE))))
    assert config_from_dict(stage["model"]) == UPSCALE.model


def test_flatten_gives_dotted_names() -> None:
    flat = flatten(asdict(FINETUNE))
    assert flat["optim.peak_lr"] == FINETUNE.optim.peak_lr
    assert flat["data.selection.per_class"] == 10
    assert not any(isinstance(value, dict) for value in flat.values())


def test_upscale_differs_from_pretrain_in_resolution_and_schedule_only() -> None:
    changed = {
        k
        for k in flatten(asdict(UPSCALE))
        if flatten(asdict(UPSCALE))[k] != flatten(asdict(PRETRAIN))[k]
    }
    assert changed == {
        "name",
        "parent",
        "model.image_size",
        "optim.peak_lr",
        "steps",
        "eval_every_steps",
    }


def test_finetune_sees_all_classes_and_few_labels() -> None:
    assert FINETUNE.data.selection == Selection(per_class=10)
    assert isinstance(FINETUNE.model, ViTConfig)
    assert FINETUNE.model.head == "linear"
    assert FINETUNE.model.num_classes == 10
    assert PRETRAIN.model.num_classes < 10


def test_every_recipe_has_the_name_it_is_found_by() -> None:
    for name, recipe in RECIPES.items():
        assert find_recipe(name) is recipe
        assert recipe.name == name


def test_an_unknown_recipe_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no recipe 'cats' - there are: .*digits"):
        find_recipe("cats")


def test_an_unknown_stage_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match="no stage 'distil', only pretrain, upscale, finetune"):
        DIGITS.stage("distil")


def test_a_parent_must_come_earlier() -> None:
    with pytest.raises(AssertionError):
        Recipe(name="wrong", stages=(UPSCALE, PRETRAIN))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"global_batch": 0}, "global_batch: wanted at least 1, found 0"),
        ({"steps": -1}, "steps: wanted at least 0, found -1"),
        ({"steps": 5}, r"warmup_steps 10 .* exceed the 5 steps"),
        ({"parent": "pretrain", "init": "x"}, "both give weights - set one of them to None"),
        ({"label_smoothing": 1.0}, r"label_smoothing: wanted within \[0, 1\), found 1.0"),
        ({"model": replace(PRETRAIN.model, image_size=(16, 32))}, "give one number"),
        ({"train": "tail"}, "train: wanted all, head, bias, .*or .* found 'tail'"),
        ({"train": "blocks 99.."}, "N from 0 to .* found .blocks 99"),
    ],
)
def test_an_impossible_stage_says_why(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PRETRAIN, **change)


def test_a_finetune_resets_its_head_and_its_name_says_so() -> None:
    tuned = DIGITS.stage("finetune")
    assert tuned.reset_head
    assert name_of(replace(tuned, reset_head=False)) != name_of(tuned)
    assert name_of(replace(PRETRAIN, reset_head=False)) == name_of()  # as it was before the field


def test_what_is_trained_is_in_the_name_where_it_is_not_all() -> None:
    names = {name_of(replace(PRETRAIN, train=t)) for t in ("all", "head", "bias", "blocks 2..")}
    assert len(names) == 4
    assert name_of() in names
    assert name_of() == "718eb30c2c293fdb"  # as version 0.1.0 computed it


@pytest.mark.parametrize(
    ("name", "folder", "last"),
    [
        ("/data/birds", "/data", "birds"),
        ("/birds/", "/", "birds"),
        ("s3://bucket/sets/birds", "s3://bucket/sets", "birds"),
        ("~/birds", "~", "birds"),
    ],
)
def test_a_dataset_that_is_named_by_its_path_is_refused(name: str, folder: str, last: str) -> None:
    with pytest.raises(Mistake) as raised:
        Data(dataset=name)
    assert name in str(raised.value)
    assert f"--place.data-root {folder} " in str(raised.value)
    assert f" give {last}," in str(raised.value)
