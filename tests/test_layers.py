"""The leaves do not know each other, and mlflow is imported in one room."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGES = ("vit", "storage", "cluster", "pipelines")


def imports_of(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def files_importing(name: str) -> list[str]:
    files = [path for package in PACKAGES for path in Path(package).rglob("*.py")]
    assert len(files) > 40
    return sorted(str(path) for path in files if name in imports_of(path))


def test_import_linter_holds_the_layers() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([str(linter)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_root_of_pipelines_holds_scripts_that_import_one_command() -> None:
    scripts = sorted(Path("pipelines").glob("*.py"))
    assert len(scripts) >= 15
    for path in scripts:
        text = path.read_text()
        if path.name == "__init__.py":
            continue  # the map, and what is imported from Python: the next test
        imports = [n for n in ast.parse(text).body if isinstance(n, ast.Import | ast.ImportFrom)]
        (only,) = imports
        assert isinstance(only, ast.ImportFrom), path
        assert [alias.name for alias in only.names] == ["main"], path
        room, _, module = str(only.module).removeprefix("pipelines.").rpartition(".")
        assert module in ("command", "doctor", "order"), f"{path} imports {room}.{module}"
        assert path.stat().st_mode & 0o111, f"{path} is not executable"
        assert len(text.splitlines()) < 12, path


def test_pipelines_imports_nothing_heavy_before_a_function_is_asked_for() -> None:
    code = (
        "import sys, pipelines; heavy = {'torch', 'ray', 'mlflow', 'numpy'} & sys.modules.keys();"
        " assert not heavy, heavy; from pipelines import evaluate, predict, run;"
        " sys.exit(0 if {'torch', 'ray'} <= sys.modules.keys() else 'nothing was imported')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_mistakes_are_told_before_ray_and_mlflow_are_imported() -> None:
    """They take two seconds, and a command line is often wrong at first."""
    rooms = ("training", "evaluation", "prediction", "exporting", "planning", "lineage")
    commands = ", ".join(f"pipelines.{room}.command" for room in (*rooms, "inspection"))
    code = f"import sys, {commands}; print(sorted({{'ray', 'mlflow'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_messages_of_workers_are_held_without_torch() -> None:
    """The process of the queue imports their module: it starts with every stage."""
    code = "import sys, pipelines.worker.messages; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_batches_are_dealt_out_without_torch() -> None:
    """The process that plans the streams imports their module: it starts with every group."""
    code = "import sys, pipelines.worker.feed; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_no_two_files_import_each_other_in_a_circle() -> None:
    files = {
        ".".join(path.with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in Path(package).rglob("*.py")
    }
    imports = {name: set[str]() for name in files}
    for name, path in files.items():
        for node in ast.walk(ast.parse(path.read_text())):  # also inside functions and for types
            if isinstance(node, ast.ImportFrom) and node.module:
                whole = {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
                modules = whole & files.keys()
                deepest = max((len(module) for module in modules), default=0)
                imports[name] |= {m for m in modules if len(m) == deepest} - {name}
    order = TopologicalSorter(imports)
    order.prepare()  # raises CycleError, which names the circle


def test_mlflow_is_imported_in_one_room() -> None:
    rooms = {str(Path(file).parent) for file in files_importing("mlflow")}
    assert rooms == {"pipelines/tracking"}


@pytest.mark.parametrize("module", ["pickle", "cloudpickle", "dill", "marshal", "shelve"])
def test_nothing_unpickles(module: str) -> None:
    assert files_importing(module) == []


def test_torch_load_and_yaml_are_the_safe_ones() -> None:
    for package in PACKAGES:
        for path in Path(package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                called = ast.unparse(node.func)
                said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                where = f"{path}:{node.lineno}"
                assert called not in ("yaml.load", "eval", "exec", "os.system"), where
                if called == "torch.load":
                    assert said.get("weights_only") == "True", where
                assert said.get("allow_pickle", "False") == "False", where
                assert said.get("shell", "False") == "False", where


def test_vit_is_plain_torch_in_a_fresh_interpreter() -> None:
    code = (
        "import sys, vit; bad = {'ray', 'deepspeed', 'boto3', 'webdataset', 'mlflow'}"
        " & {name.split('.')[0] for name in sys.modules}; sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
