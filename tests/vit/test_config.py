import json
from dataclasses import asdict, fields, replace

import pytest

from vit import VARIANTS, ViTConfig, config_from_dict
from vit.config import __file__ as CONFIG_FILE


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_variant_survives_json(name):
    config = VARIANTS[name]
    assert config_from_dict(json.loads(json.dumps(asdict(config)))) == config


def test_a_rectangular_image_size_survives_json():
    config = replace(VARIANTS["vit_b16"], image_size=(224, 448))
    assert config_from_dict(json.loads(json.dumps(asdict(config)))) == config


def test_an_unknown_key_is_named():
    with pytest.raises(ValueError, match="'widht'"):
        config_from_dict({"widht": 3})


def test_an_unknown_family_is_named():
    with pytest.raises(ValueError, match="'mixer'"):
        config_from_dict({"family": "mixer"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 225}, "image_size 225 is not a multiple of patch_size 16"),
        ({"image_size": (224, 0)}, r"image_size \(224, 0\)"),
        ({"heads": 7}, "width 768 is not a multiple of heads 7"),
        ({"depth": 0}, "depth must be at least 1, found 0"),
        ({"num_classes": -1}, "num_classes must be at least 0, found -1"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), found 1.0"),
        ({"width": 6, "heads": 3, "pos_embed": "sincos-2d"}, "width 6 % 4"),
        ({"pool": "map", "fc_norm": True}, "fc_norm"),
    ],
)
def test_an_impossible_config_is_refused_with_its_numbers(change, message):
    with pytest.raises(ValueError, match=message):
        replace(VARIANTS["vit_b16"], **change)


def test_a_variant_derives_from_another():
    config = replace(VARIANTS["vit_b16"], image_size=384, num_classes=10)
    assert isinstance(config, ViTConfig)
    assert (config.grid_size, config.num_tokens) == ((24, 24), 577)


def test_grid_is_rows_by_columns():
    assert replace(VARIANTS["vit_b16"], image_size=(32, 64)).grid_size == (2, 4)


def test_every_field_says_what_it_means():
    """The string under a field is its `--help`."""
    with open(CONFIG_FILE) as file:
        lines = [line.strip() for line in file]
    for field in fields(ViTConfig):
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{field.name}: "))
        assert lines[at + 1].startswith('"""'), field.name
