"""A copy of the weights and of their average in host memory, to be put back before a commit.

Each worker keeps what it holds of them: its partition, or at ZeRO level 0 everything. The copy goes
into the resume states as more pieces, `best_weights/NAME` and `best_average/NAME`, so it outlives
its workers and is read by any number of others at any level.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from cluster.resume_state import AVERAGE, WEIGHTS, Piece, SavedState, held, shared_out

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine

_PREFIX = "best_"


class Snapshot:
    """One worker's share of the weights after some step."""

    def __init__(self, pieces: tuple[Piece, ...]) -> None:
        self._pieces = pieces

    @classmethod
    def of(cls, engine: "DeepSpeedEngine") -> "Snapshot":
        """Copy what the engine holds now. No communication."""
        return cls(
            tuple(
                piece._replace(values=piece.values.detach().to("cpu", copy=True))
                for piece in _weights(engine)
            )
        )

    @classmethod
    def read(cls, engine: "DeepSpeedEngine", state: SavedState) -> "Snapshot":
        """Read the copy that a resume state holds, cut as this engine is. No communication."""
        return cls(
            tuple(
                piece._replace(
                    values=state.part(_PREFIX + piece.name, piece.start, len(piece.values))
                )
                for piece in _weights(engine)
            )
        )

    def pieces(self, engine: "DeepSpeedEngine") -> Iterator[Piece]:
        """What this worker writes of it into a resume state."""
        for piece in shared_out(engine, self._pieces):
            yield piece._replace(name=_PREFIX + piece.name)

    @torch.no_grad()
    def put_back(self, engine: "DeepSpeedEngine") -> None:
        """Give the float32 weights and the average of the engine these values.

        The optimizer's moments and a bfloat16 module stay as they are: nothing can be trained from
        here, only gathered.
        """
        for kept, now in zip(self._pieces, _weights(engine), strict=True):
            assert kept[:3] == now[:3], f"{kept.name} was cut otherwise"
            now.values.copy_(kept.values)


def _weights(engine: "DeepSpeedEngine") -> Iterator[Piece]:
    for piece in held(engine):
        if piece.name.partition("/")[0] in (WEIGHTS, AVERAGE):
            yield piece
