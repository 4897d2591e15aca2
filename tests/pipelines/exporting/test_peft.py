"""Adapters kept apart: PEFT puts them onto timm's model and computes what was committed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from pipelines.exporting.command import main
from storage import weights
from storage.uri import join
from tests.pipelines.conftest import Said
from tests.pipelines.support.photographs import MODEL, STAGE, Photos
from tests.vit.support.peers import import_timm, random_model
from vit import export_timm
from vit.lora import merged
from vit.trained import freeze

TRAIN = "lora 4 qkv,proj,fc1"


def commit_adapters(photos: Photos, base: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Commit a stage as a worker does; return the network with its adapters."""
    model = random_model(MODEL, seed=7)
    model.load_state_dict(base)
    freeze(model, TRAIN)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:  # an adapter that was trained, and another head
            parameter.data.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    stage = replace(STAGE, train=TRAIN)
    _, manifest = photos.commit(stage, "shape-of-the-manifest")
    tensors = model.state_dict()
    weights.commit(
        join(photos.storage_root, "lora", stage.name, manifest["fingerprint"]),
        merged(tensors),
        {key: value for key, value in manifest.items() if key != "files"},
        adapters={n: tensors[n] for n, p in model.named_parameters() if p.requires_grad},
    )
    return model.eval()


def test_peft_computes_the_committed_logits(
    called: Callable[..., Said], photos: Photos, tmp_path: Path
) -> None:
    from peft import PeftModel

    base = dict(random_model(MODEL, seed=3).state_dict())
    trained = commit_adapters(photos, base)
    export_timm(base, MODEL, tmp_path / "base")
    place = (*photos.place(), "--run", "lora", "--to", "peft", "--out", str(tmp_path / "out"))
    said = called(main, "export", *place)
    assert said.code == 0, said.err
    assert "rank 4" in said.out
    described = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (described["r"], described["lora_alpha"]) == (4, 4)
    assert described["target_modules"] == ["attn.qkv", "attn.proj", "mlp.fc1"]

    card = (tmp_path / "out" / "README.md").read_text()
    assert f"num_classes={MODEL.num_classes}, img_size={MODEL.image_hw}" in card

    arguments = json.loads((tmp_path / "base" / "config.json").read_text())
    timm = import_timm()
    plain = timm.create_model(
        arguments["architecture"], num_classes=MODEL.num_classes, **arguments["model_args"]
    )
    plain.load_state_dict(load_file(tmp_path / "base" / "model.safetensors"))
    images = torch.rand(2, 3, *MODEL.image_hw, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        wanted = trained(images)
        assert not torch.allclose(plain.eval()(images), wanted, atol=1e-2)
        found = PeftModel.from_pretrained(plain, str(tmp_path / "out")).eval()(images)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_stage_without_adapters_says_what_to_do(
    called: Callable[..., Said], photos: Photos, tmp_path: Path
) -> None:
    place = (*photos.place(), "--run", "photos", "--to", "peft", "--out", str(tmp_path / "out"))
    said = called(main, "export", *place)
    assert said.code == 2
    assert "--stage.train" in said.err
    assert not (tmp_path / "out").exists()
