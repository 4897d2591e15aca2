import subprocess
import sys

import pytest


def test_importing_vit_imports_no_distributed_storage_or_tracking_library():
    """Also no comparison library and no torchvision; in an interpreter of its own."""
    code = "import sys, vit; print(*{name.split('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(run.stdout.split())
    assert "torch" in imported
    forbidden = {"ray", "deepspeed", "boto3", "webdataset", "mlflow", "pipelines", "storage"}
    forbidden |= {"cluster", "timm", "transformers", "torchvision", "onnx", "onnxruntime"}
    assert not imported & forbidden


def test_everything_public_is_there():
    import vit

    assert len(set(vit.__all__)) == len(vit.__all__)
    for name in vit.__all__:
        assert getattr(vit, name) is not None


@pytest.mark.parametrize(
    ("options", "tensors", "total"),
    [
        ({}, 32, 4965.25125253992),
        ({"pool": "map", "registers": 2, "head": "mlp"}, 47, 7394.662149867279),
    ],
    ids=str,
)
def test_the_initial_weights_are_those_of_version_0_1(options, tensors, total):
    """A new kind of layer that took a random number where it is off would change them."""
    import vit

    config = vit.ViTConfig(
        image_size=32, patch_size=8, width=48, depth=2, heads=3, mlp_dim=96, num_classes=7,
        **options,
    )  # fmt: skip
    weights = vit.build_model(config).state_dict().values()
    assert len(weights) == tensors
    assert sum(t.double().abs().sum().item() for t in weights) == pytest.approx(total, rel=1e-6)
