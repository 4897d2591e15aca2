from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipelines.evaluation.fewshot import drawn
from pipelines.evaluation.protocol import FewShot, Knn, Protocol, fingerprint
from storage.dataset import load_dataset
from storage.decode import Crop
from storage.index import load_index
from storage.selection import Selection, select

PROTOCOL = Protocol(dataset="digits", crop=Crop(image_size=16, kind="resize"))
REST: dict[str, Any] = {"model": {"width": 8}, "weights_sha256": "a", "dataset_digest": "b"}


def test_a_name_says_all_that_the_numbers_depend_on() -> None:
    name = fingerprint(PROTOCOL, **REST)
    assert name == fingerprint(replace(PROTOCOL), **REST)
    assert name == "356818ab6a42960e"  # from before crops had an interpolation
    others = [
        replace(PROTOCOL, split="test"),
        replace(PROTOCOL, evaluators=("knn",)),
        replace(PROTOCOL, selection=Selection(classes=(1, 2))),
        replace(PROTOCOL, crop=Crop(image_size=24, kind="resize")),
        replace(PROTOCOL, crop=replace(PROTOCOL.crop, interpolation="bilinear")),
        replace(PROTOCOL, real_sha256="c"),
        replace(PROTOCOL, knn=Knn(k=5)),
        replace(PROTOCOL, batch=32),
        replace(PROTOCOL, precision="bfloat16"),
    ]
    names = {fingerprint(other, **REST) for other in others}
    names |= {fingerprint(PROTOCOL, **{**REST, key: "other"}) for key in list(REST)[1:]}
    names.add(fingerprint(PROTOCOL, **{**REST, "model": {"width": 9}}))
    assert len(names - {name}) == len(others) + 3


@pytest.mark.parametrize("classes", [None, (7, 2, 4)])
def test_few_shot_alone_reads_the_images_that_it_draws_and_no_others(
    local_data: str, classes: tuple[int, ...] | None
) -> None:
    uri = f"{local_data}/digits"
    index = load_index(load_dataset(uri), "train")
    selection = Selection(classes=classes)
    settings = FewShot(shots=(1, 5), seeds=(3, 4))
    protocol = replace(PROTOCOL, evaluators=("few-shot",), selection=selection, few_shot=settings)
    specs = protocol.train_specs(uri)
    read = [select(index, spec.selection)[0] for spec in specs]
    positions, labels = select(index, selection)
    for seed, found in zip(settings.seeds, read, strict=True):
        wanted = positions[drawn(labels, positions, seed).first(5)]
        assert set(found) == set(wanted)
    # The images of the other seeds, which are read too, change no draw.
    union = np.unique(np.concatenate(read))
    own = labels[np.searchsorted(positions, union)]
    again = union[drawn(own, union, 3).first(5)]
    assert (again == positions[drawn(labels, positions, 3).first(5)]).all()

    (whole,) = replace(protocol, evaluators=("few-shot", "knn")).train_specs(uri)
    assert whole.selection == selection
    assert replace(protocol, evaluators=("classification",)).train_specs(uri) == []
