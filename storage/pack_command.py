"""The command that would pack a dataset that is missing, from the name it is to have."""

_BY_NAME = {
    "digits": "digits",
    "mnist": "idx --folder FOLDER",
    "fashion-mnist": "idx --folder FOLDER",
    "cifar10": "cifar --path cifar-10-binary.tar.gz",
    "cifar100": "cifar --path cifar-100-binary.tar.gz",
    "imagenet": "imagenet --train-tar TAR --val-tar TAR --val-labels FILE",
    "imagenet1k": "imagenet --train-tar TAR --val-tar TAR --val-labels FILE",
}
_ANY = "folder --folder FOLDER"


def pack_command(uri: str) -> str:
    """The command line for a dataset's URI, whose last part is its name.

    Datasets of other names are taken for a folder of images, which is what most are.
    """
    name = uri.rstrip("/").rpartition("/")[2]
    return f"pipelines/pack.py {_BY_NAME.get(name, _ANY)} --out {uri}"
