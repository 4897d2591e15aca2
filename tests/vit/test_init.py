import subprocess
import sys


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
