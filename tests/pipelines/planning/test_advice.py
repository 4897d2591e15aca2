"""What a plan advises: settings that fit, and what keeps a stage from its speed."""

import re
from pathlib import Path

import pytest
import yaml

from pipelines.planning.advice import NODE_CPUS, SMALLER_GAIN, SMALLER_SIDE, advice, fitting_place
from pipelines.planning.command import plan, read_plan
from pipelines.planning.estimate import Estimate
from tests.test_docs import ROOT


def planned(*argv: str) -> tuple[list[Estimate], list[str]]:
    """The estimates, and the settings that are proposed."""
    command = read_plan(list(argv), prog="plan.py", description="")
    estimates = plan(command)
    return estimates, fitting_place(estimates, command.place, command.own.cluster)


@pytest.mark.parametrize("before", [(), ("--place.max-micro-batch", "8")])
def test_with_the_proposed_settings_every_stage_takes_its_own_largest_micro_batch(
    tmp_path: Path, before: tuple[str, ...]
) -> None:
    """H/14 at 224 px fits with 64 images, its fine-tuning at 518 px with 16."""
    argv = ("--recipe", "vit-h14-jft", "--on", "p4d", "--place.data-root", str(tmp_path))
    argv += ("--cluster.nodes", "4", *before)
    _, proposed = planned(*argv)
    estimates, again = planned(*argv, *proposed)
    taken = {}
    for stage in estimates:
        line = next(line for line in stage.memory if line.level == stage.level)
        micro, workers, accumulation = (int(n) for n in stage.batch.split(" x "))
        share = micro * accumulation
        largest = max(n for n in range(1, line.largest_micro_batch + 1) if share % n == 0)
        assert (stage.micro_batch, workers, line.fits) == (largest, 32, True)
        taken[stage.stage] = largest
    assert taken["pretrain"] > taken["finetune"]
    assert again == proposed[:8]
    assert proposed[8:] == (["--place.max-micro-batch", "None"] if before else [])


def test_on_cpus_the_proposed_micro_batch_fits_all_stages(tmp_path: Path) -> None:
    """There null is 64, whatever the memory."""
    argv = ("--recipe", "vit-b16-imagenet1k", "--on", "laptop", "--place.data-root", str(tmp_path))
    stages, proposed = planned(*argv, "--place.workers.max", "1", "--place.workers.min", "1")
    largest = [stage.memory[0].largest_micro_batch for stage in stages]
    assert min(largest) < max(largest)
    assert proposed[-2:] == ["--place.max-micro-batch", str(min(largest))]


def of_decoding(*argv: str) -> list[str]:
    """What the plan of B/32, which takes most images per second, says about decoding."""
    command = read_plan(["--recipe", "vit-b32-imagenet1k", *argv], prog="plan.py", description="")
    lines = advice(plan(command), command.place, command.own.cluster)
    return [line for line in lines if "decoding" in line]


def test_cpus_that_cannot_feed_a_model_bring_what_would(tmp_path: Path) -> None:
    root = ("--place.data-root", str(tmp_path))
    assert of_decoding("--on", "h200", *root) == [
        "pretrain: decoding wants 23 CPUs, the nodes have 15 to spare, so training waits for data"
        " - add CPU nodes (1 with 32 CPUs each) and --place.decode-on-gpu-nodes True, or pack"
        " smaller images: with pack.py --shorter-side 256 decoding wants 8 CPUs (docs/stream.md)"
    ]
    assert of_decoding("--on", "h200", "--cluster.cpus", "25", *root) == []
    few, _ = of_decoding("--on", "p5", "--cluster.cpus", "48", *root)
    assert "add CPU nodes (5 with 32 CPUs each) and" in few  # of 182 CPUs 40 are there
    on_all = ("--place.decode-on-gpu-nodes", "True")
    few, _ = of_decoding("--on", "p5", "--cluster.cpus", "48", *on_all, *root)
    assert "(5 with 32 CPUs each), or" in few  # they decode already
    assert "decoding wants 66 CPUs, still too many" in few


def test_large_inputs_and_small_files_are_not_packed_smaller(tmp_path: Path) -> None:
    argv = ("--on", "h200", "--place.data-root", str(tmp_path), "--cluster.cpus", "2")
    small, large = of_decoding(*argv)
    assert "--shorter-side" in small
    assert large.startswith("finetune")  # at 384 px
    assert "--shorter-side" not in large
    shrunk = of_decoding(*argv, "--mean-bytes", "29000")
    assert shrunk
    assert not any("--shorter-side" in line for line in shrunk)


def test_the_advice_has_the_numbers_of_the_page_and_of_the_cluster() -> None:
    page = (ROOT / "docs" / "stream.md").read_text()
    gain = re.search(rf"^\| {SMALLER_SIDE} px, quality 90 \|.*\| ([\d.]+)x \|", page, re.MULTILINE)
    assert gain is not None
    assert float(gain[1]) == SMALLER_GAIN
    nodes = yaml.safe_load((ROOT / "cluster" / "gcp.yaml").read_text())["available_node_types"]
    assert nodes["cpu-spot"]["resources"]["CPU"] == NODE_CPUS
