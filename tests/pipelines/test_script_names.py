"""`python pipelines/SCRIPT.py` puts `pipelines/` first on the path: it must hide nothing."""

import importlib.util
from pathlib import Path


def test_no_module_of_pipelines_hides_an_importable_one() -> None:
    names = {path.stem for path in Path("pipelines").iterdir() if path.suffix in (".py", "")}
    names -= {"__init__", "__pycache__"}
    assert {"worker", "inspection", "inspect_weights"} <= names
    assert importlib.util.find_spec("inspect") is not None  # what a script `inspect.py` would hide
    assert [name for name in sorted(names) if importlib.util.find_spec(name)] == []
