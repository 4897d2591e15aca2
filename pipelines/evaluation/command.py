"""`pipelines/evaluate.py`: resolve the options, measure, commit, print the metrics."""

import sys
from typing import NoReturn

from pipelines.cli.command_line import program_name, read_command
from pipelines.cli.exits import errors_as_exits, stop_at_sigterm
from pipelines.evaluation.evaluation import EvaluationOptions, make_evaluation
from pipelines.evaluation.metrics_table import print_metrics


def main(description: str) -> NoReturn:
    """Evaluate the weights of the command line; exit with a code of `pipelines.cli.exits`."""
    with errors_as_exits():
        stop_at_sigterm()
        command = read_command(
            sys.argv[1:], prog=program_name(), description=description, own=EvaluationOptions()
        )
        evaluation = make_evaluation(command)
        # Ray and MLflow take seconds to import: mistakes are told before.
        from pipelines.evaluation.run import evaluated

        manifest = evaluated(evaluation, command)
    print_metrics(evaluation, manifest.metrics)
    sys.exit(0)
