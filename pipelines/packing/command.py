"""`pipelines/pack.py`: pack, and say what was packed and what was left out."""

import sys
from collections import Counter
from typing import NoReturn

from pipelines.cli.command_line import program_name
from pipelines.cli.exits import errors_as_exits
from pipelines.cli.parser import parse
from pipelines.packing.options import Command
from storage.dataset import Dataset

_LEFT_OUT_LINES = 20


def main(description: str) -> NoReturn:
    """Pack the dataset of the command line; exit with a code of `pipelines.cli.exits`."""
    with errors_as_exits(stopped="stopped: run the same command again to continue"):
        command = parse(Command, sys.argv[1:], prog=program_name(), description=description)
        dataset = command.run()
    counts = ", ".join(f"{dataset.samples(split)} {split}" for split in dataset.splits)
    print(f"{dataset.uri}: {counts}, {len(dataset.classes)} classes, digest {dataset.digest[:12]}")
    for what, count in dataset.notes:
        print(f"note: {count} x {what}" if count > 1 else f"note: {what}")
    _print_left_out(dataset)
    sys.exit(0)


def _print_left_out(dataset: Dataset) -> None:
    """Print the first of the left out images by name, and if there are many, counts per reason."""
    for what, reason in dataset.left_out[:_LEFT_OUT_LINES]:
        print(f"left out {what}: {reason}")
    if len(dataset.left_out) > _LEFT_OUT_LINES:
        print(f"left out {len(dataset.left_out)} in all, named in {dataset.uri}/dataset.json:")
        for reason, count in Counter(why for _, why in dataset.left_out).most_common(10):
            print(f"  {count} x {reason}")
