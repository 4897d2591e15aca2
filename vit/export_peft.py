"""Export low-rank adapters by themselves, as a folder of Hugging Face's PEFT for timm's model."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from vit.lora import TARGETS, Lora, is_adapter

_MATRICES = {"lora_a": "lora_A", "lora_b": "lora_B"}


def export_peft(
    adapters: Mapping[str, Tensor], lora: Lora, folder: Path, *, base: str | None = None
) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json`.

    `peft.PeftModel.from_pretrained(model, FOLDER)` puts them onto timm's model of the weights that
    the adapters were trained beside; pixels are normalised as for that model.

    Args:
        adapters: `lora_a` and `lora_b` of each layer, and the head whole.
        lora: of the stage.
        folder: exists.
        base: name of these weights on the Hugging Face Hub, if they lie there.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in adapters.items():
        if is_adapter(name):
            layer, _, matrix = name.rpartition(".")
            name = f"{layer}.{_MATRICES[matrix]}.weight"
        tensors[f"base_model.model.{name}"] = tensor.contiguous().clone()
    whole = {name.partition(".")[0] for name in adapters if not is_adapter(name)}
    described = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.rank,  # the product is added as it is
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [TARGETS[name] for name in lora.targets],
        "modules_to_save": sorted(whole) or None,
        "inference_mode": True,
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(described, indent=2) + "\n")
