"""Confusions and the worst answers; and the user's mistakes, each one line before Ray starts."""

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from PIL import Image
from safetensors.torch import save_file
from sklearn.metrics import confusion_matrix

from pipelines.evaluation import command as run
from pipelines.evaluation.answers import Answers
from pipelines.evaluation.figures import confusion_picture, confusion_shares
from pipelines.evaluation.mistakes import (
    Pair,
    class_table,
    confusion_pairs,
    most_wrong,
    pair_table,
    wrong_table,
)
from pipelines.recipes.digits import FINETUNE, PRETRAIN
from storage import weights
from tests.pipelines.conftest import Said
from tests.pipelines.support.checkpoint import commit_stage

LABEL = np.array([0, 0, 0, 1, 1, 2, 2, 2])
TAKEN = np.array([0, 1, 1, 0, 1, 0, 0, 2])
ANSWERS = Answers(
    index=np.arange(8) + 10,
    label=LABEL,
    top=TAKEN[:, None],
    confidence=np.full(8, 0.5),
    loss=np.array([0.1, 3.0, 1.0, 5.0, 9.0, 2.0, 5.0, 0.2]),
)


def test_pairs_are_those_of_the_confusion_matrix_most_frequent_first() -> None:
    pairs = confusion_pairs(ANSWERS, 4)
    matrix = confusion_matrix(LABEL, TAKEN)
    assert pairs == [Pair(0, 1, 2, 2 / 3), Pair(2, 0, 2, 2 / 3), Pair(1, 0, 1, 1 / 2)]
    assert all(matrix[pair.label, pair.taken_for] == pair.images for pair in pairs)
    assert sum(pair.images for pair in pairs) == matrix.sum() - matrix.trace()
    assert confusion_pairs(ANSWERS, 4, most=1) == pairs[:1]
    text = pair_table(pairs, ("a", "b,c", "d", "e")).decode().splitlines()
    assert text[1].startswith('0,a,1,"b,c",2,0.66')
    shares = confusion_shares(ANSWERS, [0, 1, 2, 3])
    np.testing.assert_allclose(
        shares[:3, :3], confusion_matrix(LABEL, TAKEN, normalize="true"), atol=1e-12
    )
    assert np.isnan(shares[3]).all()


def test_the_most_wrong_are_wrong_and_have_the_largest_loss() -> None:
    rows = most_wrong(ANSWERS)
    assert rows.tolist() == [3, 6, 1, 5, 2]  # the right answer of loss 9 is not among them
    assert most_wrong(ANSWERS, most=2).tolist() == [3, 6]
    keys = [("s.tar", f"k{row}") for row in rows]
    table = wrong_table(ANSWERS, rows, keys, ("a", "b", "c")).decode().splitlines()
    assert table[1] == "13,s.tar,k3,b,a,0.5,5.0"


def test_a_class_without_images_has_no_accuracy() -> None:
    table = class_table(ANSWERS, ("a", "b", "c", "d")).decode().splitlines()
    assert table[2] == "1,b,2,0.5"
    assert table[4] == "3,d,0,"


@pytest.mark.parametrize("classes", [3, 500])
def test_the_picture_of_confusions_stays_readable_in_size(classes: int) -> None:
    names = [f"a class with a long name, number {i}" for i in range(classes)]
    data = confusion_picture(ANSWERS, confusion_pairs(ANSWERS, classes), names)
    with Image.open(io.BytesIO(data)) as image:
        assert image.width == image.height
        assert 300 < image.width < 1200


@pytest.fixture
def refused(
    called: Callable[..., Said], place: list[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Call the script; the one line on stderr of its refusal."""
    monkeypatch.setattr(ray, "init", lambda *a, **k: pytest.fail("a cluster was asked for"))

    def call(*arguments: str) -> str:
        said = partial(called, run.main, "evaluate", *place)(*arguments)
        assert said.code == 2, said.err
        (line,) = said.err.splitlines()
        assert line.startswith("error: ")
        return line

    return call


@pytest.fixture
def stage(tmp_path: Path, local_data: str) -> dict[str, Any]:
    return commit_stage(str(tmp_path / "runs"), FINETUNE, local_data)


def test_weights_that_are_not_there_name_the_place_and_the_command(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    line = refused("--run", "x")
    assert f"no committed weights under {tmp_path}/runs/x/finetune" in line
    assert "run: pipelines/finetune.py --init CHECKPOINT --data x" in line
    assert "pipelines/finetune.py --recipe digits --run x" in line
    assert "no stage 'nine'" in refused("--only", "nine")
    assert "nowhere.npz: no such file" in refused("--weights", "nowhere.npz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "none"], "/none: nothing was packed there"),
        (["--split", "test"], "has no split 'test'; it has train, val"),
        (["--classes", "1", "2"], "has 10 classes, but the selected data of"),
        (["--classes", "1", "20"], "has no classes [20], only 10"),
        (["--image-size", "17"], "image_size 17 is not a multiple of patch_size 4"),
        (["--average", "ema"], "holds no average: its stage has no optim.ema_decay"),
        (["--parent", "feed"], "--parent feed is not committed under"),
        (
            ["--evaluators", "knn", "--split", "train"],
            "would learn from the split they are evaluated",
        ),
        (["--evaluators", "knn", "knn"], "wanted at least one, none twice"),
        (["--knn.k", "0"], "knn: wanted k at least 1"),
        (["--batch", "0"], "batch: wanted at least 1, found 0"),
        (["--real", "none.json"], "none.json: no such file"),
        (["--evaluators", "guessing"], "invalid choice 'guessing' for argument '--evaluators'"),
    ],
)
def test_an_impossible_evaluation_is_refused(
    refused: Callable[..., str], stage: dict[str, Any], arguments: list[str], message: str
) -> None:
    assert message in refused(*arguments)


def test_a_bad_file_of_several_labels_is_refused(
    refused: Callable[..., str], stage: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "real.json"
    path.write_text(json.dumps([[0]] * 376))
    assert "376 entries, but split 'val' has 377 samples" in refused("--real", str(path))
    path.write_text("no JSON")
    assert f"{path}: wanted JSON" in refused("--real", str(path))


def test_the_head_of_another_task_is_refused_by_name(
    refused: Callable[..., str], tmp_path: Path, local_data: str
) -> None:
    manifest = commit_stage(str(tmp_path / "runs"), PRETRAIN, local_data)
    line = refused("--weights", manifest["uri"], "--dataset", "digits")
    assert "pretrain " in line
    assert "has 7 classes, but the selected data" in line
    assert "has 10 - choose --classes, or measure its features" in line
    save_file(weights.read_weights(manifest["uri"])[0], tmp_path / "public.safetensors")
    line = refused("--weights", str(tmp_path / "public.safetensors"), "--init-image-size", "16")
    assert "for this model (head mlp -> linear: reset, head 7 -> 10: reset)" in line
