"""Decide the input of a checkpoint's head: class token, mean of the patches or attention pooling.

A class token in the file does not prove that the head reads it: MAE's fine-tuning, EVA and timm's
`global_pool="avg"` keep it in the blocks and read the mean of the patches. It becomes a register.
"""

from typing import Literal

from vit.importers import fixes
from vit.importers.source import Source

Pool = Literal["token", "gap", "map"]
_QUESTION = "the file does not show whether its head reads the class token or the patches' mean"


def decide_pool(source: Source, *, wanted: Pool | None, wanted_registers: int | None) -> None:
    """Decide the head's input, and turn a class token that the head does not read into a register.

    Args:
        source: the checkpoint; its `pool` is set, and `registers` if the class token becomes one.
        wanted: `pool` of the model that the weights go into; None if there is no such model.
        wanted_registers: registers of that model.

    Raises BadCheckpoint if the file does not show it and both are common.
    """
    said, by = source.settings.pool, source.settings.said_by.get("pool", "config.json")
    if "attn_pool.latent" in source.weights:
        said, by = "map", "attn_pool.latent"
    elif said == "map":
        raise source.error("config.json says attention pooling, but the weights have no attn_pool")
    if said == "map":
        _check_prefix(source)
    if "cls_token" not in source.weights:
        source.know(
            "pool", said if said == "map" else "gap", by if said == "map" else "no cls_token"
        )
        return
    if source.layout.pool_is_shown and said is None:
        said, by = "token", f"cls_token of {source.layout.name}"
    more = source.fields["registers"] + 1
    asked_mean = wanted == "gap" and wanted_registers in (None, more)
    if said is None and asked_mean:
        said, by = "gap", "given"
        source.notes.append(f"pool gap, as requested: {_QUESTION}")
    elif said is None and source.fields["fc_norm"]:
        raise source.error(
            f"{_QUESTION} (fc_norm beside cls_token) - put its config.json beside it, or for the"
            f" mean set --stage.model.pool gap --stage.model.registers {more}"
        )
    elif said is None:
        said, by = "token", "cls_token in the file, no other source"
        source.notes.append(f"assumed pool token: {_QUESTION}")
    elif said == "token" and asked_mean:
        said, by = "gap", "given"
        source.notes.append("pool token -> gap: the class token became a register")
    source.know("pool", said, by)
    if said != "token":
        fixes.class_token_as_register(source.weights)
        source.know("registers", more, f"cls_token, which the head does not read ({by})")


def _check_prefix(source: Source) -> None:
    """Check that attention pooling reads prefix tokens too, which timm's does not by default."""
    if source.layout.pool_is_shown or not (
        source.fields["registers"] or "cls_token" in source.weights
    ):
        return
    if source.settings.map_reads_prefix is False:
        raise source.error(
            "its attention pooling leaves out class and register tokens (timm's default), which is"
            " not supported: models here pool all tokens"
        )
    if source.settings.map_reads_prefix is None:
        source.notes.append(
            "assumed attention pooling of all tokens: the file does not say, and timm's default"
            " leaves out class and register tokens"
        )
