"""What a worker is told, and how it says that it cannot go on."""

from dataclasses import dataclass

from cluster.settings import Place
from pipelines.lineage.manifest import Manifest
from pipelines.recipes.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage attempt, as plain values: all that a worker is told."""

    stage: Stage
    """What is trained."""
    dataset_uri: str
    attempt_uri: str
    """Where weights and resume states go."""
    place: Place
    start_uri: str | None
    """Weights to start from: a stage's, or a public checkpoint."""
    steps_per_epoch: float
    manifest: Manifest
    """The manifest as far as it is known; the workers add step, metrics and files."""


class Stopped(Exception):
    """Every rank found the same reason not to go on, which a restart would not mend."""

    def __init__(self, reason: str, *, mistake: bool = True) -> None:
        super().__init__(reason)
        self.mistake = mistake
        """The user's, rather than a failure of the world."""
