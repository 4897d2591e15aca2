from dataclasses import replace

import pytest
import torch

from pipelines.recipes import find_recipe
from pipelines.worker.utilisation import Utilisation, device_name, peak_flops


def test_a_peak_is_of_the_format_and_of_exactly_that_card() -> None:
    assert peak_flops("NVIDIA A100-SXM4-40GB", "bfloat16") == 312e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "float32") == 19.5e12
    assert peak_flops("NVIDIA H200", "bfloat16") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-40GB", "tf32") == 156e12
    assert peak_flops("NVIDIA H100 PCIe", "bfloat16") is None  # slower than the SXM module
    assert peak_flops("NVIDIA GeForce RTX 4090", "bfloat16") is None


def test_mfu_of_vit_b16_by_hand() -> None:
    stage = replace(find_recipe("vit-b16-imagenet21k").stages[0], precision="bfloat16")
    found = Utilisation(stage, device="NVIDIA A100-SXM4-40GB", workers=8).metrics(8000.0)
    macs = 17.58e9 + 768 * (
        stage.model.num_classes - 1000
    )  # 17.58 G: ViT-B/16 at 224, 1000 classes
    assert found["train/mfu"] == pytest.approx(6 * macs * 1000 / 312e12, rel=0.01)


def test_a_cpu_has_no_mfu() -> None:
    stage = find_recipe("digits").stages[0]
    cpu = device_name(torch.device("cpu"))
    assert Utilisation(stage, device=cpu, workers=2).metrics(100.0) == {}
