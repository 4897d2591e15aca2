"""What a checkpoint's head reads: its class token, the mean of its patches, or attention pooling.

A class token in the file does not tell: MAE's fine-tuning, EVA and `global_pool="avg"` of timm keep
it in the blocks and read the mean of the patches. Such a token is a register here.
"""

from typing import Literal

from vit.importers import fixes
from vit.importers.source import Source

Pool = Literal["token", "gap", "map"]
_QUESTION = "the file does not say whether its head reads the class token or the patches' mean"


def decide_pool(source: Source, *, wanted: Pool | None, wanted_registers: int | None) -> None:
    """Find what the head reads, keep a class token that it does not read as a register.

    Args:
        source: gets `pool`, and perhaps one register more.
        wanted: what the model it goes into reads; None where there is no such model.
        wanted_registers: registers of that model.

    Raises BadCheckpoint where nothing tells and both readings are usual.
    """
    said, by = source.settings.pool, source.settings.said_by.get("pool", "config.json")
    if "attn_pool.latent" in source.weights:
        said, by = "map", "attn_pool.latent"
    elif said == "map":
        raise source.error("config.json says pooling by attention, but there is no attn_pool")
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
        source.notes.append(f"pool gap taken, as asked: {_QUESTION}")
    elif said is None and source.fields["fc_norm"]:
        raise source.error(
            f"{_QUESTION} (fc_norm beside cls_token): put its config.json beside it, or for the"
            f" mean --stage.model.pool gap --stage.model.registers {more}"
        )
    elif said is None:
        said, by = "token", "cls_token in the file, nothing else said"
        source.notes.append(f"pool token taken: {_QUESTION}")
    elif said == "token" and asked_mean:
        said, by = "gap", "given"
        source.notes.append("pool token -> gap: the class token is a register now")
    source.know("pool", said, by)
    if said != "token":
        fixes.class_token_as_register(source.weights)
        source.know("registers", more, f"cls_token, which the head does not read ({by})")


def _check_prefix(source: Source) -> None:
    """timm's attention pooling leaves prefix tokens out by default; here it reads them too."""
    if source.layout.pool_is_shown or not (
        source.fields["registers"] or "cls_token" in source.weights
    ):
        return
    if source.settings.map_reads_prefix is False:
        raise source.error(
            "its attention pooling leaves class and register tokens out (timm's default): models"
            " here pool all tokens"
        )
    if source.settings.map_reads_prefix is None:
        source.notes.append(
            "attention pooling of all tokens taken: the file does not say, timm's default leaves"
            " class and register tokens out"
        )
