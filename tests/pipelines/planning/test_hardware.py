"""Where the numbers of a kind of node come from."""

import ast
import inspect
import re
from dataclasses import fields

import pytest

from pipelines.planning.hardware import NodeKind
from tests.test_docs import ROOT


def docstrings() -> dict[str, str]:
    """The docstring of each field, as `--help` shows it."""
    (kind,) = ast.parse(inspect.getsource(NodeKind)).body
    assert isinstance(kind, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in zip(kind.body, kind.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


@pytest.mark.parametrize("field", [field.name for field in fields(NodeKind)])
def test_each_number_says_where_it_comes_from(field: str) -> None:
    text = docstrings()[field]
    if field.startswith("dollars_"):
        assert re.search("price of", text, re.IGNORECASE), text
        assert re.search(r"\b20\d\d\b", text), text  # prices have dates
    elif field != "nodes":  # a choice
        assert re.search("measured|data sheet|assumed", text, re.IGNORECASE), text


def test_decoding_takes_what_the_benchmark_measured() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    whole = re.search(r"takes ([\d.]+) ms of processor time with simplejpeg", page)
    part = re.search(r"Of an image's ([\d.]+) ms in the\s+steady state", page)
    assert whole is not None
    assert part is not None
    assert NodeKind().decode_milliseconds == float(whole[1])
    said = docstrings()["decode_milliseconds"]
    assert f"{whole[1]} without libturbojpeg 3" in said
    assert f"{part[1]} with it" in said
    assert "libturbojpeg" not in (ROOT / "cluster" / "Dockerfile").read_text()
