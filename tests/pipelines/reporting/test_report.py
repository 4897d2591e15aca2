"""A report of runs in a real MLflow store: whole, alone, and deaf to what names say."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import vit
from pipelines.inspection.image_grid import image_grid
from pipelines.recipes.digits import FINETUNE, PRETRAIN, UPSCALE
from pipelines.recipes.fingerprint import flatten
from pipelines.recipes.stage import Stage
from pipelines.reporting.command import default_file, main, report_at_the_end
from pipelines.reporting.content import gather
from pipelines.reporting.cost import cost_of
from pipelines.tracking import client as tracking
from pipelines.tracking import reader as tracking_read
from pipelines.tracking.attempt_run import open_tracker
from pipelines.tracking.tracker import FAILED, FINISHED
from tests.pipelines.conftest import Said
from tests.pipelines.support.committed import commit_stage

EVIL = '<img src=x onerror="alert(1)"> & "quoted"'
VOID = {"meta", "img", "br"}


@dataclass
class Parsed(HTMLParser):
    """What a browser would make of the page."""

    tags: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(page: str) -> Parsed:
    """Parse it, and hold what every report must hold: nothing is loaded, nothing runs."""
    found = Parsed()
    found.feed(page)
    found.close()
    assert found.open == []
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & set(found.tags)
    for tag, name, value in found.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "srcset", "action", "data", "poster"):
            assert value.startswith("#" if name == "href" else "data:image/png;base64,"), value
        assert not re.match(r"\s*https?://", value), (tag, name, value)
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert "default-src 'none'" in page
    assert 'name=viewport content="width=device-width' in page
    return found


def log_stage(
    uri: str, stage: Stage, place: tuple[str, dict[str, Any]], *, run: str, status: str = FINISHED
) -> None:
    """Log a stage as `training.driver` does."""
    attempt, manifest = place
    tags = {"fingerprint": manifest["fingerprint"], "dataset": stage.data.dataset}
    if manifest["parent"]:
        tags |= {f"parent.{name}": value for name, value in manifest["parent"].items()}
    tracker = open_tracker(
        tracking.open_client(uri),
        experiment="digits",
        run=run,
        stage=stage.name,
        attempt=attempt,
        tags=tags,
        params=flatten(manifest["stage"]),
    )
    steps = max(stage.steps, 1)
    records = [{"step": at, "train/loss": 2.3 / at, "train/lr": 1e-3} for at in range(1, steps + 1)]
    for record in records[9::10]:
        record |= {
            "train/images_per_second": 500.0,
            "train/read_mebibytes": 0.25,
            "train/read_requests": 3,
        }
    tracker.log_steps(records)
    for step in (steps // 2 + 1, steps):
        tracker.log_steps(
            [{"step": step, "val/loss": 0.5, "val/accuracy": 0.875, "val/samples": 255}]
        )
    tracker.log_steps([{"step": steps, "val_ema/accuracy": 0.9, "val_ema/samples": 255}])
    images = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tracker.log_file("pictures/augmented-batch.png", image_grid(images))
    tracker.log_file("pictures/fake.png", b"<script>alert(1)</script>")
    tracker.end(status)


Called = Callable[..., Said]


@dataclass
class Run:
    """Arguments that lead to a run, and what it was made of."""

    arguments: list[str]
    stages: list[tuple[Stage, tuple[str, dict[str, Any]]]]


def make_run(tmp_path: Path, data: str, place: list[str], run: str, **changes: Any) -> Run:
    """Three stages in a row, the last of which failed."""
    root, uri = str(tmp_path / "runs"), place[5]
    made: list[tuple[Stage, tuple[str, dict[str, Any]]]] = []
    parent = None
    for stage in (PRETRAIN, UPSCALE, FINETUNE):
        stage = replace(stage, steps=40, data=replace(stage.data, **changes))
        parent = commit_stage(root, stage, data, run=run, parent=parent)
        made.append((stage, parent))
        status = FAILED if stage.name == "finetune" else FINISHED
        log_stage(uri, stage, parent, run=run, status=status)
    return Run([*place, "--recipe", "digits", "--run", run], made)


def test_the_page_of_a_run(
    called: Called, tmp_path: Path, place: list[str], local_data: str
) -> None:
    run = make_run(tmp_path, local_data, place, "demo")
    out = tmp_path / "page.html"
    ran = called(main, "report", *run.arguments, "--out", str(out))
    assert ran.code == 0, ran.err
    assert f"wrote {out}" in ran.out
    assert "of the average" in out.read_text()
    page = out.read_text()
    found = parse(page)

    for stage, (uri, manifest) in run.stages:
        assert stage.name in found.text
        for word in (manifest["fingerprint"], manifest["dataset"]["digest"], uri):
            assert word in found.text
        assert manifest["files"]["weights.safetensors"]["sha256"] in found.text
    assert run.stages[0][1][1]["git_commit"] in found.text
    assert "failed" in found.text
    assert found.tags.count("svg") == 3 * 4  # loss, accuracy, learning rate, throughput
    assert found.tags.count("img") == 3
    assert "pictures/fake.png: not a PNG" in found.text
    for text in ("optimizer step", "loss (nats)", "16 px", "24 px", "0.875", "model.image_size"):
        assert text in found.text
    assert "optim.momentum" in found.text  # in all stages the same
    rows = re.findall(r"<th scope=row>model.image_size</th>(.*?)</tr>", page)
    assert rows == ['<td>16</td><td class="changed">24</td><td>24</td>']

    artifacts = list(tmp_path.glob("mlartifacts/digits/*/artifacts/report.html"))
    assert [path.read_text() for path in artifacts] == [page]
    client = tracking.open_client(place[5])
    again = tracking_read.read_run(client, experiment="digits", run="demo")
    assert again is not None
    assert again[0] == artifacts[0].parts[-3]  # of the parent run
    assert len(again[1]) == 3


def test_names_and_data_cannot_inject(
    called: Called, tmp_path: Path, place: list[str], local_data: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(f"{local_data}/digits", data / EVIL)
    place = ["--place.data-root", str(data), *place[2:]]
    run = make_run(tmp_path, str(data), place, EVIL, dataset=EVIL)
    client = tracking.open_client(place[5])
    evil = tracking_read.read_run(client, experiment="digits", run=EVIL)
    assert evil is not None
    for record in evil[1]:
        client.set_tag(record.run_id, "vit.git_commit", EVIL)
        client.set_tag(record.run_id, "vit.ray_job_id", "</dd></dl><script>alert(1)</script>")
        client.log_param(record.run_id, "evil", "</style><script>alert(2)</script>")
        name = "val/evil name"
        client.log_metric(record.run_id, name, 1.0)
    out = tmp_path / "page.html"
    ran = called(main, "report", *run.arguments, "--out", str(out))
    assert ran.code == 0, ran.err
    page = out.read_text()
    found = parse(page)
    assert EVIL in found.text  # as text
    assert EVIL not in page
    assert "<script" not in page
    assert found.tags.count("img") == 3  # the pictures alone


def test_cost_is_counted(tmp_path: Path, place: list[str], local_data: str) -> None:
    run = make_run(tmp_path, local_data, place, "demo")
    content = gather(command_of(run.arguments), tracking.open_client(place[5]))
    for (stage, _), shown in zip(run.stages, content.stages, strict=True):
        cost = cost_of(shown)
        model = vit.build_model(stage.model, device="meta").cost()
        images = 40 * stage.global_batch
        assert cost.images == images
        assert cost.parameters == model.parameters
        assert cost.training_flops == 6 * model.forward_macs * images
        assert cost.evaluation_flops == 2 * model.forward_macs * 3 * 255
        assert cost.images_per_second == pytest.approx(500)
        assert cost.flops_per_second == pytest.approx(6 * model.forward_macs * 500)
        assert cost.read_bytes == 4 * 0.25 * 2**20
        assert cost.read_requests == 12
        assert cost.seconds is not None
        assert 0 <= cost.seconds < 120


def command_of(arguments: list[str]) -> Any:
    from pipelines.cli.command_line import read_command

    return read_command(arguments, prog="report.py", description="")


def test_a_run_whose_storage_is_gone_is_shown_from_mlflow(
    called: Called, tmp_path: Path, place: list[str], local_data: str
) -> None:
    run = make_run(tmp_path, local_data, place, "demo")
    shutil.rmtree(tmp_path / "runs")
    ran = called(main, "report", *run.arguments, "--out", str(tmp_path / "page.html"))
    assert ran.code == 0, ran.err
    found = parse((tmp_path / "page.html").read_text())
    assert "(not committed)" in found.text
    assert "model.image_size" in found.text
    assert found.tags.count("svg") == 3 * 4


def test_mistakes_are_one_line(called: Called, tmp_path: Path, place: list[str]) -> None:
    arguments = [*place, "--recipe", "digits", "--run", "nothing"]
    ran = called(main, "report", *arguments, "--out", str(tmp_path / "p.html"))
    assert ran.code == 2
    assert "has no run 'nothing' of recipe 'digits' - run: pipelines/pipeline.py" in ran.err
    assert ran.err.count("\n") == 1
    ran = called(main, "report", *arguments, "--out", str(tmp_path / "no" / "p.html"))
    assert ran.code == 2
    assert "wanted a file in an existing folder" in ran.err
    assert not list(tmp_path.glob("**/*.html"))


def test_a_pipeline_says_where_its_report_is_and_never_fails_for_it(
    tmp_path: Path, place: list[str], local_data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, local_data, place, "demo")
    report_at_the_end(command_of(run.arguments))
    said = capsys.readouterr()
    path = said.out.strip().removeprefix("Report: ")
    parse(Path(path).read_text())
    report_at_the_end(command_of([*run.arguments, "--run", "nothing"]))
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("warning: no report: MLflow at sqlite:")
    assert said.err.count("\n") == 1


def test_the_default_file_is_one_in_this_folder() -> None:
    assert default_file("demo") == "report-demo.html"
    assert default_file("../../etc/x y") == "report-..-..-etc-x-y.html"
    assert "/" not in default_file(EVIL)
