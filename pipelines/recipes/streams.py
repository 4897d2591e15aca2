"""Which images a stage reads: its streams, as plain values."""

from dataclasses import replace

from pipelines.recipes.data import Data
from pipelines.recipes.stage import Stage
from storage.augment import NO_AUGMENTATION
from storage.columns import StreamSpec
from storage.selection import Selection


def train_spec(stage: Stage, dataset_uri: str) -> StreamSpec:
    """The training images of a stage, in an order that depends on nothing but the stage."""
    data = stage.data
    return StreamSpec(
        dataset=dataset_uri,
        split=data.train_split,
        selection=data.selection,
        crop=data.train_crop(stage.image_size),
        augment=stage.augment,
        seed=stage.seed,
        global_batch=stage.global_batch,
        tail=data.tail,
        balance=data.balance,
        shares=data.shares,
    )


def val_spec(stage: Stage, dataset_uri: str) -> StreamSpec:
    """The validation images of a stage, every one once."""
    data = stage.data
    return replace(
        train_spec(stage, dataset_uri),
        split=data.val_split,
        selection=val_selection(data),
        crop=data.val_crop(stage.image_size),
        augment=NO_AUGMENTATION,
        tail="carry",  # an evaluation pads its last batch and drops nothing
        balance="none",
        shares=None,
    )


def val_selection(data: Data) -> Selection:
    """Part of the validation split: the classes of training, where `val_selection` names none."""
    chosen, trained = data.val_selection, data.selection
    if chosen.classes is None and chosen.labels is None:
        return replace(chosen, classes=trained.classes, labels=trained.labels)
    return chosen
