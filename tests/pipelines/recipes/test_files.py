"""Recipes of files: Python values, and YAML that changes fields of a recipe by name."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipelines.recipes import DIGITS, find_recipe
from pipelines.recipes.errors import Mistake
from pipelines.recipes.fingerprint import fingerprint

PYTHON = """
from dataclasses import replace
from pipelines.recipes import DIGITS

MINE = replace(DIGITS, name="mine", stages=(replace(DIGITS.stages[0], steps=70),))
"""
TWO = PYTHON + '\nOTHER = replace(MINE, name="other")\n'


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_python_file_with_one_recipe_and_with_two(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.py", PYTHON)
    assert find_recipe(file).stages[0].steps == 70
    two = write(tmp_path / "two.py", TWO)
    assert find_recipe(f"{two}:OTHER").name == "other"
    assert find_recipe(f"{two}:other").name == "other"
    with pytest.raises(Mistake, match=r"two\.py: which recipe\?.* mine, other"):
        find_recipe(two)
    with pytest.raises(Mistake, match=r"no recipe 'third'.* mine, other"):
        find_recipe(f"{two}:third")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "Recipe"),
        ("import nowhere_at_all", r"line 1: ModuleNotFoundError: .*nowhere_at_all"),
        ("\nx = (", r"line 2: SyntaxError"),
        ("from pipelines.recipes.stage import Stage\nStage(name='a', steps=-1)", r"line 2: .*-1"),
    ],
)
def test_a_python_file_that_does_not_work_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(Mistake, match=said) as caught:
        find_recipe(write(tmp_path / "mine.py", text))
    assert "mine.py" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_yaml_changes_fields_of_a_recipe(tmp_path: Path) -> None:
    stages = {"pretrain": {"steps": 90, "model": {"depth": 2}, "data": {"area": [0.5, 1]}}}
    file = write(tmp_path / "short.yaml", yaml.safe_dump({"base": "digits", "stages": stages}))
    recipe, first = find_recipe(file), DIGITS.stages[0]
    assert recipe.name == "short"
    assert recipe.stages[1:] == DIGITS.stages[1:]
    model = replace(first.model, depth=2)
    data = replace(first.data, area=(0.5, 1.0))
    assert recipe.stages[0] == replace(first, steps=90, model=model, data=data)


@pytest.mark.parametrize("name", ["digits", "vit-b16-imagenet21k", "vit-s16-baseline"])
def test_what_print_config_prints_is_the_same_stage(tmp_path: Path, name: str) -> None:
    from cluster.settings import Place
    from pipelines.cli.options import Command, NoOptions, Options

    recipe = find_recipe(name)
    options = Options(recipe=name, run="a")
    command = Command(
        options=options, recipe=recipe, stages=recipe.stages, place=Place(), own=NoOptions()
    )
    again = find_recipe(write(tmp_path / "printed.yaml", command.as_yaml()))
    assert again == recipe
    names = [
        [fingerprint(stage, dataset_digest="0", parent=None) for stage in each.stages]
        for each in (recipe, again)
    ]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"stages": {}}, "base: wanted the name of a recipe, found None"),
        ({"base": "nothing"}, "no recipe 'nothing'"),
        ({"base": "digits", "steps": 3}, "no field steps; there are base"),
        ({"base": "digits", "stages": {"warm": {}}}, "no field stages.warm; there are pretrain"),
        (
            {"base": "digits", "stages": {"pretrain": {"optim": {"rate": 1}}}},
            "no field stages.pretrain.optim.rate; there are name, peak_lr",
        ),
        (
            {"base": "digits", "stages": {"pretrain": {"steps": "many"}}},
            r"stages\.pretrain\.steps: wanted a whole number, found 'many'",
        ),
        (
            {"base": "digits", "stages": {"pretrain": {"model": {"depth": True}}}},
            r"pretrain\.model\.depth: wanted a number, found True",
        ),
        (
            {"base": "digits", "stages": {"pretrain": {"optim": {"peak_lr": "fast"}}}},
            r"optim\.peak_lr: wanted a number, found 'fast'",
        ),
        (
            {"base": "digits", "stages": {"pretrain": {"loss": "hinge"}}},
            r"loss: wanted 'softmax', 'sigmoid' or 'bce', found 'hinge'",
        ),
        (
            {"base": "digits", "stages": {"pretrain": {"data": {"area": [1]}}}},
            r"data\.area\.1: wanted a value here",
        ),
        ({"base": "digits", "stages": {"pretrain": {"steps": -1}}}, "steps: wanted at least 0"),
        ({"base": "digits", "stages": {"pretrain": {"name": "b"}}}, "name cannot be changed"),
        ({"base": "digits", "stages": {"pretrain": 3}}, "wanted a mapping, found 3"),
        ([], "wanted a mapping"),
    ],
)
def test_a_mistake_in_yaml_is_named_with_its_key(
    tmp_path: Path, content: object, said: str
) -> None:
    with pytest.raises(Mistake, match=said):
        find_recipe(write(tmp_path / "mine.yaml", yaml.safe_dump(content)))


def test_yaml_names_no_code(tmp_path: Path) -> None:
    file = write(tmp_path / "evil.yaml", "base: !!python/object/apply:os.system ['touch evil']\n")
    with pytest.raises(Mistake, match=r"evil\.yaml: cannot be read"):
        find_recipe(file)
    assert not Path("evil").exists()


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(Mistake, match=r"no such file .*none\.yaml"):
        find_recipe("none.yaml")
    with pytest.raises(Mistake, match=r"no such file .*none\.py"):
        find_recipe("none.py:A")


def test_a_number_that_yaml_takes_for_a_text_is_a_number(tmp_path: Path) -> None:
    content = "base: digits\nstages: {pretrain: {optim: {peak_lr: 1e-3}}}"  # no dot: a text
    (tmp_path / "mine.yaml").write_text(content)
    assert find_recipe(str(tmp_path / "mine.yaml")).stages[0].optim.peak_lr == 1e-3
