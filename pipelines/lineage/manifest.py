"""What the manifest of a stage attempt says, and where from: the lineage of its weights."""

import os
import subprocess
from pathlib import Path
from typing import Any

from pipelines.lineage.attempts import Attempt

PACKAGES = ("torch", "ray", "deepspeed", "mlflow", "numpy", "safetensors")


def parent_record(parent: Attempt) -> dict[str, Any]:
    """What a child remembers of its parent."""
    assert parent.manifest is not None
    return {
        "stage": parent.manifest["stage"]["name"],
        "fingerprint": parent.fingerprint,
        "attempt": parent.name,
        "weights_sha256": parent.manifest["files"]["weights.safetensors"]["sha256"],
        "mlflow_run_id": parent.manifest["mlflow_run_id"],
    }


def git_commit() -> str | None:
    """Commit of the code, `+dirty` where files differ from it; None outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(  # noqa: S603  # fixed arguments, no shell
            ["git", *arguments],  # noqa: S607  # git of the PATH
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return f"{commit}+dirty" if git("status", "--porcelain", "-uno") else commit
    except (OSError, subprocess.CalledProcessError):
        return None
