"""Recipes of one's own, outside this package: `--recipe FILE.py` and `--recipe FILE.yaml`.

    FILE.py[:NAME]   Python that makes `Recipe` values, with NAME where there are several
    FILE.yaml        base: NAME of a recipe, stages: {STAGE: {FIELD: VALUE}}

What `--print-config` prints is such a YAML file (its `run` and `place` are not part of a recipe and
are not read). No value in YAML names code.
"""

import importlib.util
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import TypeAdapter, ValidationError

from pipelines.recipes.errors import Mistake
from pipelines.recipes.stage import Recipe, Stage

_TYPES = {
    "int_": "a whole number",
    "float_": "a number",
    "bool_": "true or false",
    "string_": "a text",
    "tuple_type": "a list",
    "missing": "a value here",
}
"""What a field holds, by the beginning of pydantic's kind of error."""
_KEYS = ("base", "recipe", "name", "stages", "run", "place")


def is_file(name: str) -> bool:
    """Whether `--recipe` names a file of recipes."""
    return name.partition(".py:")[0].endswith((".py", ".yaml", ".yml")) or ".py:" in name


def read_recipe(name: str, find: Callable[[str], Recipe]) -> Recipe:
    """Read the recipe of a file.

    Args:
        name: FILE.yaml, FILE.py or FILE.py:NAME.
        find: finds the base of a YAML file by name.

    Raises:
        Mistake: there is no such file, or something in it is wrong; names the file and the key.
    """
    path, _, chosen = name.partition(".py:")
    file = Path(f"{path}.py" if chosen else path)
    if not file.is_file():
        raise Mistake(f"--recipe {name}: no such file {file}")
    if file.suffix == ".py":
        return _of_python(file, chosen, find)
    return _of_yaml(file, find)


def _of_python(file: Path, chosen: str, find: Callable[[str], Recipe]) -> Recipe:
    spec = importlib.util.spec_from_file_location(f"recipe_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f.lineno for f in frames if Path(f.filename) == file.absolute()]
        line = getattr(error, "lineno", None) or (own[-1] if own else "?")
        text = " ".join(str(error).split())
        raise Mistake(f"{file}, line {line}: {type(error).__name__}: {text}") from None
    named = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, Recipe) and not _is_ours(value, find)
    }
    recipes = named | {recipe.name: recipe for recipe in named.values()}
    if chosen in recipes:
        return recipes[chosen]
    distinct = {recipe.name: recipe for recipe in named.values()}
    if not chosen and len(distinct) == 1:
        return next(iter(distinct.values()))
    known = ", ".join(sorted(distinct)) or "none: wanted a value of pipelines.recipes.stage.Recipe"
    wanted = f"no recipe {chosen!r}" if chosen else "which recipe? give FILE.py:NAME"
    raise Mistake(f"{file}: {wanted}; it makes {known}")


def _is_ours(recipe: Recipe, find: Callable[[str], Recipe]) -> bool:
    """Whether the file only imported it from this package."""
    try:
        return find(recipe.name) is recipe
    except Mistake:
        return False


def _of_yaml(file: Path, find: Callable[[str], Recipe]) -> Recipe:
    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Mistake(f"{file}: cannot be read: {' '.join(str(error).split())}") from None
    values = _mapping(file, "the file", values)
    _check_keys(file, "", values, _KEYS)
    base = values.get("base", values.get("recipe"))
    if not isinstance(base, str) or is_file(base):
        raise Mistake(f"{file}: base: wanted the name of a recipe, found {base!r}")
    recipe = find(base)
    name = values.get("name", file.stem if "base" in values else recipe.name)
    if not isinstance(name, str):
        raise Mistake(f"{file}: name: wanted a text, found {name!r}")
    changes = _mapping(file, "stages", values.get("stages", {}))
    _check_keys(file, "stages.", changes, [stage.name for stage in recipe.stages])
    stages = tuple(
        _changed(file, stage, _mapping(file, f"stages.{stage.name}", changes.get(stage.name, {})))
        for stage in recipe.stages
    )
    try:
        return replace(recipe, name=name, stages=stages)
    except AssertionError as error:
        raise Mistake(f"{file}: {error}") from None


def _changed(file: Path, stage: Stage, changes: Mapping[str, Any]) -> Stage:
    where = f"stages.{stage.name}."
    values = _merged(file, where, asdict(stage), changes)
    if values["name"] != stage.name:
        raise Mistake(f"{file}: {where}name cannot be changed: stages are looked up by name")
    try:  # by way of JSON, where a list may become a tuple
        return TypeAdapter(Stage).validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if not str(part).endswith("Config"))
        text = _wanted(first["type"], first.get("ctx", {}), first["msg"])
        found = "" if first["type"] == "value_error" else f", found {first['input']!r:.60}"
        raise Mistake(f"{file}: {(where + key).rstrip('.')}: {text}{found}") from None


def _wanted(kind: str, context: Mapping[str, Any], message: str) -> str:
    """What is wrong with a value, by pydantic's kind of error."""
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind == "literal_error":
        return f"wanted {context['expected']}"
    return next(
        (f"wanted {text}" for start, text in _TYPES.items() if kind.startswith(start)), message
    )


def _merged(
    file: Path, where: str, values: dict[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """`values` with `changes` in place of theirs, mapping by mapping."""
    if where.endswith(".model.") and changes.get("family", values["family"]) != values["family"]:
        return dict(changes)  # a model of another family has other fields
    _check_keys(file, where, changes, values)
    merged = dict(values)
    for key, value in changes.items():
        inner = values[key]
        if isinstance(inner, dict):
            value = _merged(file, f"{where}{key}.", inner, _mapping(file, where + key, value))
        if isinstance(value, bool) and type(inner) in (int, float):  # Python takes it for one
            raise Mistake(f"{file}: {where}{key}: wanted a number, found {value}")
        merged[key] = value
    return merged


def _mapping(file: Path, key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Mistake(f"{file}: {key}: wanted a mapping, found {value!r:.60}")
    return cast("dict[str, Any]", value)


def _check_keys(file: Path, where: str, found: Mapping[str, Any], known: Any) -> None:
    unknown = sorted(str(key) for key in found if key not in known)
    if unknown:
        raise Mistake(f"{file}: no field {where}{unknown[0]}; there are {', '.join(known)}")
