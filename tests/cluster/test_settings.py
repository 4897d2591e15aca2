from pathlib import Path

import pytest

from cluster.errors import BadPlace
from cluster.settings import Place, Workers, Zero, read_place


def write(folder: Path, text: str) -> Path:
    path = folder / "ray_config.yaml"
    path.write_text(text)
    return path


def test_the_shipped_file_reads() -> None:
    assert read_place(Path("ray_config.yaml")).workers == Workers()


SHIPPED = [
    "ray_config.yaml",
    "cluster/place-aws.yaml",
    "cluster/place-gcp.yaml",
    "cluster/kuberay/base/ray_config.yaml",
    "cluster/kuberay/overlays/eks/ray_config.yaml",
]


@pytest.mark.parametrize("path", SHIPPED)
def test_gradients_are_not_partitioned_by_default(path: str) -> None:
    """Level 2 would reduce every micro-batch, and a ViT-H's gradients have 1.3 GB."""
    assert read_place(Path(path)).zero == Zero(level=1)


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert read_place(write(tmp_path, "")) == Place()


def test_nested_keys_reach_their_dataclass(tmp_path: Path) -> None:
    place = read_place(write(tmp_path, "workers: {min: 1, max: 8}\nzero: {level: 3}\n"))
    assert place.workers == Workers(min=1, max=8)
    assert place.zero == Zero(level=3)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffworkers: {min: 2, max: 3}",
        "workers:\r\n  min: 2\r\n  max: 3\r\n",
        "workers: {max: 3, min: 2}  # é",
    ],
)
def test_a_file_from_another_editor_is_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "place.yaml"
    path.write_bytes(text.encode())
    assert read_place(path).workers == Workers(min=2, max=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("storage: x", r"storage: no such setting"),
        ("workers: {mim: 1}", r"workers.mim: no such setting"),
        ("workers: {max: two}", r"workers.max: .*valid integer, found 'two'"),
        ("workers: {min: 3, max: 2}", r"wanted 1 <= min <= max, found min 3, max 2"),
        ("zero: {level: 4}", r"zero.level: .*0, 1, 2 or 3, found 4"),
        ("zero: {level: 0, offload_optimizer: true}", r"needs zero.level 1, 2 or 3"),
        ("{compile: true, zero: {level: 3}}", r"compile needs zero.level 0, 1 or 2"),
        ("max_micro_batch: 0", r"max_micro_batch: wanted at least 1, found 0"),
        ("- a\n- b", r"wanted a mapping of settings, found list"),
        ("a: [", r"cannot be read"),
        ("workers:\n\tmin: 1", r"cannot be read"),
        ("!!python/object/apply:os.system ['true']", r"cannot be read"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(BadPlace, match=message) as error:
        read_place(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadPlace, match="no such file - give one with --config"):
        read_place(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("given", "steps", "period"),
    [(None, 40, 4), (None, 5, 1), (None, 400, 40), (None, 90_000, 100), (25, 40, 25), (0, 40, 0)],
)
def test_a_short_stage_is_saved_ten_times(given: int | None, steps: int, period: int) -> None:
    assert Place(save_every_steps=given).save_period(steps) == period
