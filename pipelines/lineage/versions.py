"""Record which code made a result: package versions and git commit."""

import os
import subprocess
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("torch", "ray", "deepspeed", "mlflow", "numpy", "safetensors")


def package_versions() -> dict[str, str]:
    """Return the versions of packages that a result may depend on."""
    return {name: version(name) for name in PACKAGES}


def git_commit() -> str | None:
    """Return the git commit, with `+dirty` if files differ from it; None outside a checkout."""
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
