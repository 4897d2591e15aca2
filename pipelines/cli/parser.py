"""What tyro and argparse do for a script: typed options, --help, one line for a mistake."""

import argparse
import contextlib
import io
import re
from collections.abc import Callable, Collection
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Annotated, Any, TypeVar

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from pipelines.recipes.errors import Mistake

T = TypeVar("T")

_NO_COMMAND = re.compile(r"^Expected one of \{(.+?)\}\.?$")
_NO_TYPE = re.compile(
    r"^Error parsing (--\S+): no type matching (?:\{None\}\|)?(\S+) could be instantiated from"
    r" \['?(.*?)'?\]\..*"
)


def peek(argv: list[str], prog: str, **names: Any) -> argparse.Namespace:
    """Read only the named arguments: those that decide the defaults of the others."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name, default in names.items():
        parser.add_argument(f"--{name}", default=default)
    return parse_quietly(prog, lambda: parser.parse_known_args(argv)[0])


def parse(shape: Any, argv: list[str], *, prog: str, description: str, default: Any = None) -> Any:
    """Parse arguments into a dataclass with tyro.

    Raises:
        Mistake: one line for whatever is wrong with the arguments.
        SystemExit: after --help.
    """
    more = {} if default is None else {"default": default}
    return parse_quietly(
        prog,
        lambda: tyro.cli(
            shape,
            args=argv,
            prog=prog,
            description=description,
            config=(tyro.conf.AvoidSubcommands,),
            registry=_rules(shows_help="--help" in argv),
            **more,
        ),
        known=_options(shape),
    )


def _options(shape: Any) -> set[str]:
    """The options of a dataclass, without those of its members; none of a choice of subcommands."""
    names = [field.name for field in fields(shape)] if is_dataclass(shape) else []
    return {f"--{name.replace('_', '-')}" for name in names}


def _rules(*, shows_help: bool) -> ConstructorRegistry:
    """Return rules by which the docstring of a field is one line of --help, however it is wrapped.

    Tyro 1.0 keeps a line break before a word that is indented. Where the docstring says what the
    default is, tyro does not say it again.
    """
    registry, asking = ConstructorRegistry(), False

    @registry.struct_rule
    def unwrapped(info: StructTypeInfo) -> StructConstructorSpec | None:  # pyright: ignore[reportUnusedFunction]  # registered
        nonlocal asking
        if asking or not is_dataclass(info.type):
            return None
        asking = True  # for tyro's own rule
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            asking = False
        assert isinstance(spec, StructConstructorSpec)
        return replace(spec, fields=tuple(_said_once(f, shows_help) for f in spec.fields))

    return registry


def _said_once(field: StructFieldSpec, shows_help: bool) -> StructFieldSpec:
    field = replace(field, helptext=partial(_one_line, field.helptext))
    if shows_help and "Default:" in (_one_line(field.helptext) or ""):
        hint: Any = Annotated[field.type, tyro.conf.arg(help_behavior_hint="")]
        return replace(field, type=hint)
    return field


def _one_line(text: str | Callable[[], str | None] | None) -> str | None:
    text = text() if callable(text) else text
    return None if text is None else " ".join(text.split())


def parse_quietly(prog: str, parse: Callable[[], T], *, known: Collection[str] = ()) -> T:
    """Run a parser; turn its boxed error message into one line.

    Of the `known` options one is suggested where other trainers call it otherwise.
    """
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            return parse()
    except argparse.ArgumentError as error:
        raise Mistake(str(error)) from None
    except SystemExit as stop:
        if not stop.code:
            raise
        problem = parser_message(output.getvalue(), known=known)
        screen = "--help-all" if "--stage." in problem or "--place." in problem else "--help"
        raise Mistake(f"{problem} - see {prog} {screen}") from None


_ELSEWHERE = {
    "--batch-size": "--batch",
    "--img-size": "--image-size",
    "--learning-rate": "--lr",
    "--learning_rate": "--lr",
    "--num-epochs": "--epochs",
    "--num_train_epochs": "--epochs",
    "--per_device_train_batch_size": "--batch",
    "--train-batch-size": "--batch",
}
"""Options of timm and of Hugging Face's Trainer, and ours."""


def parser_message(message: str, *, known: Collection[str] = ()) -> str:
    """Extract from tyro's error message what is wrong, and the options it suggests.

    The message has sections between rules: in a box, or on terminals that cannot draw one, as plain
    lines under a title.
    """
    boxed = "╭" in message
    sections: list[list[str]] = [[]]
    for line in message.splitlines():
        text = line.strip("│ ")
        if text and not line.startswith(("╭", "╰")):
            if set(text) <= {"─", "-"}:
                sections.append([])
            else:
                sections[-1].append(text)
    first = 0 if boxed or len(sections) == 1 else 1
    problem = re.sub(r"^Error parsing \w+: ", "", " ".join(sections[first]))
    problem = _NO_TYPE.sub(r"\1 \3: wanted \2", problem)
    problem = _NO_COMMAND.sub(r"no subcommand given, wanted one of \1", problem)
    hints = [line.split()[0] for lines in sections[first + 1 :] for line in lines]
    similar = [hint for hint in hints if hint.startswith("--")]
    words = re.findall(r"--[\w-]+", problem)
    similar = [ours for word in words if (ours := _ELSEWHERE.get(word, "")) in known] or similar
    if similar and "Unrecognized" in problem:
        problem += f" - perhaps {' or '.join(similar[:2])}"
    return problem
