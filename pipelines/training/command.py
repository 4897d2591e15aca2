"""`pretrain.py`, `upscale.py`, `finetune.py`, `pipeline.py`: run the stages in order."""

import sys
from typing import NoReturn

from pipelines.cli.command_line import program_name, read_command
from pipelines.cli.exits import errors_as_exits, stop_at_sigterm
from pipelines.cli.options import Command
from pipelines.cli.place import check_root
from pipelines.lineage.adoption import FromCheckpointAndData
from pipelines.lineage.source import downloads_kept
from pipelines.training.prepare import Checked, check_stage


def main(description: str, stage_name: str | None = None) -> NoReturn:
    """Run one stage, or all stages of the recipe, as the command line says; exit."""
    stopped = "stopped; run the same command again to continue from the last save, if there was one"
    with errors_as_exits(stopped=stopped):
        stop_at_sigterm()
        with downloads_kept():
            command = read_command(
                sys.argv[1:],
                prog=program_name(),
                description=description,
                stage_name=stage_name,
                adoption=FromCheckpointAndData() if stage_name else None,
            )
            checked = check_stages(command)
        # Ray and MLflow take seconds to import: mistakes are told before.
        from pipelines.training.stages import print_end, run_stages

        outcomes = run_stages(command, checked)
    print_end(outcomes, command)
    sys.exit(0)


def check_stages(command: Command) -> dict[str, Checked]:
    """Check by name each of the command's stages, and that its results can be stored."""
    with downloads_kept():
        checked = {stage.name: check_stage(stage, command.place) for stage in command.stages}
    check_root(command.place)
    return checked
