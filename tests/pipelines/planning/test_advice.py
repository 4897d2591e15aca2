"""What a plan advises: settings that fit, and what keeps a stage from its speed."""

from pathlib import Path

import pytest

from pipelines.planning.advice import fitting_place
from pipelines.planning.command import plan, read_plan
from pipelines.planning.estimate import Estimate


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
