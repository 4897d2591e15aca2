"""What an evaluation measures: of labels, and of what is hidden."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.recipes import find_recipe
from pipelines.recipes.objectives import stage_network, stage_objective
from pipelines.recipes.stage import Stage
from pipelines.worker.linear_probe import probe_accuracy
from pipelines.worker.validation import measure
from vit import normalize

CPU = torch.device("cpu")
SAMPLES = 20


@pytest.fixture(autouse=True)
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A group of one rank: real collectives, no Ray."""
    place = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def columns(side: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (SAMPLES, side, side, 3), dtype=torch.uint8, generator=generator)
    label = torch.arange(SAMPLES) % 3
    label[-2:] = -1  # padding
    index = torch.arange(SAMPLES)
    return {"image": image, "label": label, "index": index, "visit": torch.zeros_like(index)}


def cut(batch: dict[str, Tensor], rows: int) -> list[dict[str, Tensor]]:
    parts = zip(*(column.split(rows) for column in batch.values()), strict=True)
    return [dict(zip(batch, part, strict=True)) for part in parts]


def measured(stage: Stage, *, rows: int, micro: int) -> dict[str, float]:
    network = stage_network(stage).eval()
    batches = cut(columns(stage.image_size), rows)
    with torch.no_grad():
        return dict(
            measure(stage, stage_objective(stage), network, batches, device=CPU, micro_batch=micro)
        )


@pytest.mark.parametrize("name", ["digits", "digits-mae", "digits-masked-patch"])
def test_the_numbers_do_not_depend_on_how_the_split_is_cut(name: str) -> None:
    stage = find_recipe(name).stages[0]
    whole = measured(stage, rows=SAMPLES, micro=SAMPLES)
    assert whole["samples"] == SAMPLES - 2
    for rows, micro in ((7, 7), (20, 3)):
        found = measured(stage, rows=rows, micro=micro)
        assert found.keys() == whole.keys()
        assert found == pytest.approx(whole, rel=1e-5)


def test_padding_does_not_count() -> None:
    stage = find_recipe("digits-mae").stages[0]
    network, objective = stage_network(stage).eval(), stage_objective(stage)
    batch = columns(stage.image_size)
    other = dict(batch, image=batch["image"].clone())
    other["image"][-2:] = 255 - other["image"][-2:]
    with torch.no_grad():
        first, second = (
            dict(measure(stage, objective, network, [each], device=CPU, micro_batch=SAMPLES))
            for each in (batch, other)
        )
    assert first == second


def test_a_classifier_has_accuracy_and_no_picture() -> None:
    stage = find_recipe("digits").stages[0]
    found = measured(stage, rows=SAMPLES, micro=SAMPLES)
    assert found.keys() == {"accuracy", "loss", "samples"}
    batch = columns(stage.image_size)
    logits = stage_network(stage).eval()(normalize(batch["image"]))[:-2]
    expected = torch.nn.functional.cross_entropy(logits, batch["label"][:-2])
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_what_is_hidden_is_shown_and_another_seed_hides_other_patches() -> None:
    stage = find_recipe("digits-masked-patch").stages[0]
    shown: list[list[Tensor]] = []
    for seed in (0, 0, 1):
        one = replace(stage, seed=seed)
        batch = columns(stage.image_size)
        with torch.no_grad():
            list(
                measure(
                    one,
                    stage_objective(one),
                    stage_network(one).eval(),
                    [batch],
                    device=CPU,
                    micro_batch=8,
                    show=shown.append,
                )
            )
    assert [len(rows) for rows in shown] == [3, 3, 3]
    assert torch.equal(shown[0][1], shown[1][1])
    assert not torch.equal(shown[0][1], shown[2][1])


def test_a_probe_reads_what_is_linear_in_the_features_and_nothing_from_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (4000,), generator=generator)
    noise = torch.randn(4000, 32, generator=generator)
    features = noise.clone()
    features[torch.arange(4000), labels] += 8.0
    positions = torch.randperm(4000, generator=generator)
    assert probe_accuracy(features, labels, positions) == pytest.approx(1.0, abs=0.01)
    assert probe_accuracy(noise, labels, positions) == pytest.approx(0.25, abs=0.04)
    order = torch.randperm(4000, generator=generator)
    assert probe_accuracy(features[order], labels[order], positions[order]) == probe_accuracy(
        features, labels, positions
    )


def test_one_class_has_no_probe() -> None:
    nothing = torch.zeros(4, dtype=torch.int64)
    assert probe_accuracy(torch.randn(4, 3), nothing, torch.arange(4)) is None
