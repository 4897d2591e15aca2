"""`pipelines/predict.py`: resolve the options, predict, print or write."""

import contextlib
import os
import sys
import time
from functools import partial
from typing import NoReturn

from cluster.settings import Place
from pipelines.cli.command_line import program_name, read_command
from pipelines.cli.console import clock
from pipelines.cli.exits import errors_as_exits, stop_at_sigterm
from pipelines.cli.options import Command
from pipelines.prediction.here import Predict, predict_here
from pipelines.prediction.listing import pieces_of, where
from pipelines.prediction.one_file import join_parts
from pipelines.prediction.output import CsvOutput, Output, TableOutput
from pipelines.prediction.parts import begin, finish, part_name, plan_of
from pipelines.prediction.pieces import FileRef, Piece
from pipelines.prediction.prediction import Prediction, PredictionOptions, make_prediction

NAME = "predict"
ADDRESS = "RAY_ADDRESS"
FEW_FILES = 64
"""So many files are predicted in this process: Ray and its workers take 10 to 30 s to start."""
_NOTE_SECONDS = 10.0


def main(description: str) -> NoReturn:
    """Predict what the command line names; exit with a code of `pipelines.cli.exits`.

    stdout has nothing but the predictions; everything else goes to stderr.
    """
    with errors_as_exits(stopped="stopped; with --out the same command resumes from here"):
        stop_at_sigterm()
        command = read_command(
            sys.argv[1:], prog=program_name(), description=description, own=PredictionOptions()
        )
        stdout = sys.stdout
        output = (TableOutput if stdout.isatty() else CsvOutput)(stdout)
        with contextlib.redirect_stdout(sys.stderr):
            carry_out(command, output)
    sys.exit(0)


def carry_out(command: Command[PredictionOptions], output: Output) -> None:
    """Predict what a command names; Ray starts where there are many images."""
    prediction = make_prediction(command)
    for line in (prediction.classes.unknown, *prediction.candidate.notes):
        if line:
            _note(line)
    _note(f"{prediction.candidate.kind} on {where(prediction.found)}")
    run = partial(_run, prediction, output)
    if _is_small(prediction):
        run(predict_here, command.place)
        return
    from pipelines.prediction.predictor import with_ray  # a few images do not wait for its imports

    with_ray(command, run)


def _is_small(prediction: Prediction) -> bool:
    """Whether starting a Ray takes longer than the work, and nobody named a running one."""
    few = len(prediction.found) <= FEW_FILES
    files = all(isinstance(one, FileRef) for one in prediction.found)
    return few and files and not os.environ.get(ADDRESS)


def _run(prediction: Prediction, output: Output, predict: Predict, place: Place) -> None:
    began = time.monotonic()
    pieces = pieces_of(prediction.found, rows=prediction.rows_per_piece)
    done: set[int] = set()
    if prediction.out is not None:
        done = begin(prediction.out, plan_of(prediction, pieces)) & set(range(len(pieces)))
    if done:
        _note(f"{len(done)} of {len(pieces)} parts are there already")
    total = _images(pieces) - _images([pieces[number] for number in done])
    images = errors = 0
    noted = began
    for rows in predict(prediction, pieces, done, place):
        images, errors = images + rows.images, errors + rows.errors
        if rows.columns:
            output.add(rows.columns)
        if time.monotonic() - noted > _NOTE_SECONDS and images < total:
            noted = time.monotonic()
            _note(f"{images:,} of {total:,} images, {images / (noted - began):.0f} img/s")
    if prediction.out is None:
        output.end()
    else:
        finish(prediction.out)
        if prediction.file:
            join_parts(prediction.out, map(part_name, range(len(pieces))), prediction.file)
            _note(f"wrote {prediction.file}")
        else:
            parts = len(pieces) - len(done)
            _note(f"wrote {parts} {'part' if parts == 1 else 'parts'} into {prediction.out}")
    seconds = time.monotonic() - began
    _note(
        f"{images:,} images in {clock(seconds)}, {images / seconds:.1f} img/s"
        + (f"; {errors:,} could not be used: see column error" if errors else "")
    )


def _images(pieces: list[Piece]) -> int:
    return sum(len(piece) for piece in pieces)


def _note(text: str) -> None:
    print(f"{NAME}: {text}", file=sys.stderr, flush=True)
