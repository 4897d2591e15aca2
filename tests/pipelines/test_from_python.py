"""docs/from-python.md: its blocks run in order, in one namespace, on the session's Ray."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pipelines import run
from pipelines.cli.exits import signals_kept, stop_at_sigterm
from pipelines.lineage.manifest import read_manifest
from pipelines.recipes.errors import Mistake
from storage.pack.png import png
from tests.test_docs import ROOT, blocks


@pytest.mark.timeout(600)
def test_the_python_of_the_page_runs(
    ray_session: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stage is trained and measured for real: that the calls reach Ray is what it shows."""
    monkeypatch.chdir(tmp_path)
    pixels, _ = load_digits(return_X_y=True)  # [N, 64], 0 to 16
    image = np.asarray(pixels)[4].reshape(8, 8)
    (tmp_path / "four.png").write_bytes(png((image * 15.9).astype(np.uint8)))
    before = signal.getsignal(signal.SIGTERM)
    names: dict[str, Any] = {}
    for _, block in blocks(ROOT / "docs" / "from-python.md", "python"):
        exec(block, names)
    assert signal.getsignal(signal.SIGTERM) is before

    outcome = names["outcome"]
    assert (outcome.status, outcome.stage) == ("trained", "pretrain")
    manifest = read_manifest(outcome.weights)
    assert manifest is not None
    assert manifest.best is not None
    assert manifest.best.evaluations == 3
    measured = names["measured"]
    assert measured.weights.uri == outcome.weights
    assert measured.metrics["val/accuracy"] == outcome.metrics["val/accuracy"]
    (row,) = names["table"].to_pylist()
    assert row["file"].endswith("four.png")
    assert row["class"] in "0123456"
    assert row["probability"] >= row["probability_2"] > 0
    (stage,) = names["tuned"].stages
    assert (stage.patience, stage.keep, stage.init) == (2, "best", outcome.weights)
    assert stage.model.num_classes == 10

    (again,) = run(names["recipe"], place=names["place"])
    assert (again.status, again.weights) == ("done already", outcome.weights)


def test_a_mistake_is_an_exception_of_one_line() -> None:
    with pytest.raises(Mistake, match="no recipe 'nothing'") as caught:
        run("nothing")
    assert "\n" not in str(caught.value)


def test_another_thread_may_call_and_leaves_the_signals_alone() -> None:
    def call() -> None:
        with signals_kept():
            stop_at_sigterm()

    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(call).result()
    assert signal.getsignal(signal.SIGTERM) is before
    call()
    assert signal.getsignal(signal.SIGTERM) is before
