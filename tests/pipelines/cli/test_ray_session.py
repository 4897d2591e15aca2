"""Ray as a script sees it: our settings are there before Ray reads them."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["training.command", "evaluation.command", "checks.order", "packing.ray_tasks"]
)
def test_settings_are_made_before_ray_is_imported(module: str) -> None:
    code = (
        f"import pipelines.{module}\n"
        "from ray._private import ray_logging\n"
        "line = 'WARNING: 8 PYTHON worker processes have been started on node: x'\n"
        "batch = {'ip': 'x', 'pid': 'raylet', 'lines': [line, 'another']}\n"
        "(shown,) = ray_logging.stderr_deduplicator.deduplicate(batch)\n"
        "print(shown['lines'])\n"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=inherited, capture_output=True, text=True
    )
    assert done.stdout == "['another']\n", done.stderr
