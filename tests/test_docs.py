"""The documentation: its links, files, commands and Python are those of the code.

A command line of `pipelines/` is read by its own script, in this process, which stops as soon as
the options are parsed: nothing is started.
"""

import re
import runpy
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro

from pipelines.lineage.adoption import FromCheckpointAndData
from pipelines.recipes import find_recipe
from storage import weights
from vit import ViTConfig, build_model

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
PACKAGES = "pipelines|vit|storage|cluster|benchmarks|tests"
ANY_PLACE = "cluster/place-aws.yaml"  # in place of a settings file that the reader makes
RECIPE = "finetune"  # in place of a recipe that the reader makes


RUN_BY = {  # the tests that run the blocks of a page
    "python": {
        "extend.md": "tests/test_docs.py",
        "from-python.md": "tests/pipelines/test_from_python.py",
        "train-on-my-data.md": "tests/test_docs.py",
        "use-the-model.md": "tests/pipelines/exporting/test_snippets.py",
    },
    "yaml": {"extend.md": "tests/test_docs.py"},
}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """The anchor of the heading above each block of that language, and the block."""
    found, anchor, lines = [], "", None
    for line in page.read_text().splitlines():
        if lines is not None and line.startswith("```"):
            found.append((anchor, "\n".join(lines)))
            lines = None
        elif lines is not None:
            lines.append(line)
        elif line.startswith("```"):
            lines = [] if line == f"```{language}" else None
        elif line.startswith("#"):
            anchor = anchor_of(line)
    return found


def anchor_of(heading: str) -> str:
    """GitHub's anchor of a heading."""
    text = re.sub(r"[^\w\- ]", "", heading.lstrip("#").strip().lower())
    return text.replace(" ", "-")


def anchors(page: Path) -> set[str]:
    outside = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {anchor_of(line) for line in outside.splitlines() if line.startswith("#")}


def links(page: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [link for link in found if not link.startswith(("http://", "https://"))]


def command_lines(page: Path) -> list[str]:
    """What the page calls of `pipelines/`, in command blocks and between backticks."""
    text = page.read_text()
    variables = dict(re.findall(r'^\$ (\w+)="(.*)"$', text, re.MULTILINE))
    shell = "\n".join(block for _, block in blocks(page, "console")).replace("\\\n", " ")
    shell = re.sub(r"\$(\w+)", lambda name: variables.get(name[1], name[0]), shell)
    quoted = re.findall(r"`(pipelines/\w+\.py [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    called = re.findall(r"pipelines/\w+\.py[^\n|;&>]*", shell)
    return [line for line in (*called, *quoted) if "..." not in line]


def test_the_readme_is_one_page() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 100
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_every_named_file_is_there(page: Path) -> None:
    named = re.findall(rf"(?<![\w/.-])(?:{PACKAGES}|docs)/[\w/.-]*\w", page.read_text())
    assert [name for name in sorted(set(named)) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_named_test_is_there(page: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text())
    lacking = [
        f"{path}::{name}"
        for path, name in named
        if not re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE)
    ]
    assert lacking == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_named_module_is_there(page: Path) -> None:
    named = re.findall(rf"(?<![\w/.-])(?:{PACKAGES})(?:\.[a-zA-Z_]\w*)+", page.read_text())
    other = re.compile(r"\.(md|py|yaml|json|com)$")  # files beside the page; hosts
    missing = [name for name in sorted(set(named)) if not other.search(name) and not found(name)]
    assert missing == []


def found(dotted: str) -> bool:
    """Whether it is a module, or a name that its module has."""
    path, *rest = dotted.split(".")
    where = ROOT / path
    while rest and ((where / rest[0]).is_dir() or (where / f"{rest[0]}.py").exists()):
        where /= rest.pop(0)
    source = where / "__init__.py" if where.is_dir() else where.with_suffix(".py")
    return all(re.search(rf"\b{name}\b", source.read_text()) for name in rest)


class Parsed(BaseException):
    """Raised when a script has read its options."""


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    parse: Any = tyro.cli

    def stop_after_parsing(*arguments: Any, **keywords: Any) -> Any:
        parsed = parse(*arguments, **keywords)
        if keywords.get("return_unknown_args"):  # the short options alone; all of them come next
            return parsed
        raise Parsed

    monkeypatch.setattr(tyro, "cli", stop_after_parsing)
    # The checkpoints of the pages are in the network.
    monkeypatch.setattr(FromCheckpointAndData, "before", lambda _, stage, short, argv: (stage, ()))
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


COMMANDS = sorted(
    {shlex.join(shlex.split(line, comments=True)) for page in PAGES for line in command_lines(page)}
)


@pytest.mark.parametrize("line", COMMANDS)
@pytest.mark.usefixtures("parse_only")
def test_every_command_is_read_by_its_script(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, *arguments = shlex.split(line)
    if ">" in arguments:
        del arguments[arguments.index(">") :]
    arguments = [RECIPE if word == "photos.yaml" else word for word in arguments]
    if "--config" in arguments:
        arguments[arguments.index("--config") + 1] = ANY_PLACE
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises((Parsed, SystemExit)) as ended:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    if isinstance(ended.value, SystemExit):  # --help, --print-config, or an error
        assert ended.value.code == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["pipelines/pretrain.py --stage.stepps 3", "pipelines/pack.py zip"]
)
@pytest.mark.usefixtures("parse_only")
def test_a_command_with_a_mistake_would_be_found(
    line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, *arguments = shlex.split(line)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert ended.value.code == 2


def test_there_are_commands_of_every_script() -> None:
    called = {line.split()[0] for line in COMMANDS}
    scripts = {f"pipelines/{path.name}" for path in (ROOT / "pipelines").glob("[!_]*.py")}
    assert called == scripts


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_recipe_is_there(page: Path) -> None:
    names = set(re.findall(r"--recipe ([a-z][\w-]*)(?![\w.:-])", page.read_text()))
    for name in names - {"digits-deep"}:  # which extend.md makes
        find_recipe(name)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_option_of_other_commands_is_there(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"(?:^\$ |`)make ([\w-]+)", page.read_text(), re.MULTILINE):
        assert target in targets, f"make {target}"
    modules = r"python -m ((?:benchmarks|cluster)\.\w+)([^\n`]*)"
    for module, arguments in re.findall(modules, page.read_text()):
        path = ROOT / module.replace(".", "/")
        source = (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
        for option in re.findall(r"--([a-z][\w-]*)", arguments):
            assert f"--{option}" in source or option.replace("-", "_") in source, (
                f"{module} {option}"
            )


def test_the_table_of_commands_has_every_block() -> None:
    table = ROOT / "docs" / "commands.md"
    listed = re.findall(r"^\| \[[^]]+\]\((\S+)\) \|", table.read_text(), re.MULTILINE)
    assert len(listed) == len(set(listed))
    there = {(page, anchor) for page in PAGES for anchor, _ in blocks(page, "console")}
    rows = set()
    for link in listed:
        path, _, anchor = link.partition("#")
        rows.add(((table.parent / path).resolve(), anchor))
    assert rows == there


def test_every_row_says_what_tests_it_or_what_it_needs() -> None:
    table = (ROOT / "docs" / "commands.md").read_text()
    rows = re.findall(r"^\| \[[^]]+\]\(\S+\) \| (.+) \| (.+) \|$", table, re.MULTILINE)
    assert len(rows) == table.count("\n| [")
    for need, tested in rows:
        assert re.search(r"`(tests/|\.ci/)", tested) or re.match("not (tested|run)", tested), tested
        assert need.strip()


def test_other_blocks_hold_no_commands_and_no_code() -> None:
    """What is neither is a picture or a listing."""
    languages: dict[str, set[str]] = {}
    for page in PAGES:
        for opened in re.findall(r"^```(\w*)\n.*?^```$", page.read_text(), re.M | re.S):
            languages.setdefault(opened, set()).add(page.name)
        for _, block in blocks(page, ""):
            assert not re.search(r"^(\$ |pipelines/\w+\.py|import |from \w+ import )", block, re.M)
    assert languages.keys() - {"", "console"} == RUN_BY.keys()
    for language, pages in RUN_BY.items():
        assert languages[language] == pages.keys()
        for page, test in pages.items():
            assert re.search(rf'"{page}", "{language}"\)', (ROOT / test).read_text()), (page, test)


def test_the_python_of_extend_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for _, block in blocks(ROOT / "docs" / "extend.md", "python"):
        exec(block, names)
    assert [stage.model.depth for stage in names["DIGITS_DEEP"].stages] == [8, 8, 8]
    assert [stage.image_size for stage in names["DIGITS_32"].stages] == [16, 24, 32, 32]
    assert names["model"].num_features == 256
    assert (names["dataset"].samples("train"), names["dataset"].samples("val")) == (64, 16)


def test_the_recipe_file_of_extend_is_read(tmp_path: Path) -> None:
    ((_, block),) = blocks(ROOT / "docs" / "extend.md", "yaml")
    (tmp_path / "mine.yaml").write_text(block)
    first, *others = find_recipe(str(tmp_path / "mine.yaml")).stages
    assert (first.steps, first.optim.peak_lr) == (200, 0.002)
    assert others == list(find_recipe("digits").stages[1:])


def test_the_python_that_uses_weights_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ((_, block),) = blocks(ROOT / "docs" / "train-on-my-data.md", "python")
    uri = re.findall(r'read_weights\("(\S+)"\)', block)[0]
    # a size that timm has a name for
    config = ViTConfig(image_size=32, width=192, depth=12, heads=3, mlp_dim=768, num_classes=3)
    stage = {"name": "finetune", "model": vars(config)}
    weights.commit(uri, build_model(config).state_dict(), {"stage": stage})
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["model"].num_features == 192


def test_the_picture_is_what_its_script_draws() -> None:
    figures = ROOT / "docs" / "figures"
    drawn = runpy.run_path(str(figures / "stages.py"))["picture"]()
    assert (figures / "stages.svg").read_text() == drawn
