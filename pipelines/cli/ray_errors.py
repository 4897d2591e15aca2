"""Turn the errors of a failed training into one line; decide whether a restart can help."""

import builtins
import re

import cluster.errors
import pipelines.recipes.errors
import storage.errors
import vit.errors
from pipelines.cli.exits import Failed
from pipelines.recipes.errors import MISTAKES
from storage.errors import BadInput, NoCredentials

_FAMILIES = (storage.errors, cluster.errors, vit.errors, pipelines.recipes.errors)


def explain_failure(stage: str, error: Exception) -> Exception:
    """Return the error to raise for a failed training: BadInput for a mistake, else Failed."""
    causes = _causes(error)
    name, message = next((cause for cause in causes if _is_mistake(cause[0])), causes[0])
    if _is_mistake(name):
        return BadInput(f"stage {stage}: {message}")
    if name == "NoProgress":  # it names what was raised
        return Failed(f"stage {stage} failed: {message}")
    return Failed(f"stage {stage} failed: {name}: {message}")


def is_mistake(error: Exception) -> bool:
    """Return whether some worker raised an error that a restart would meet again."""
    names = {name for name, _ in _causes(error)} - {"CorruptWeights"}  # an older state may be whole
    return any(map(_is_mistake, names))


def _causes(error: Exception) -> list[tuple[str, str]]:
    """Class name and message of each worker's error: often one failed and the rest lost a peer."""
    failures = getattr(error, "worker_failures", None)
    failures = failures or {0: getattr(error, "controller_failure", error)}
    return [root_cause(failure) for failure in failures.values()]


def _is_mistake(name: str) -> bool:
    if name == NoCredentials.__name__:
        return False  # the driver had credentials; metadata services throttle now and then
    kinds = [getattr(family, name, None) for family in _FAMILIES]
    return any(isinstance(kind, type) and issubclass(kind, MISTAKES) for kind in kinds)


# `storage.errors.BadSample: shard ...`, as the last line of a traceback
_RAISED = re.compile(r"^(?P<name>(?:[a-z_][\w]*\.)*[A-Z]\w*): (?P<message>.+)$")


def root_cause(error: BaseException) -> tuple[str, str]:
    """Return class name and message of the innermost error in nested Ray errors.

    Ray puts the error of a task or worker into the text of its own, and adds advice below it.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line in reversed(lines):
        match = _RAISED.match(line)
        if match and not line.startswith("ray.") and _is_exception(match["name"]):
            return match["name"].rpartition(".")[2], match["message"]
    return type(error).__name__, lines[-1] if lines else ""


def _is_exception(name: str) -> bool:
    """Return whether a name looks like an exception's: it has a module, or is built in.

    `Note: ...` at the end of a message is not an exception.
    """
    kind = getattr(builtins, name, None)
    return "." in name or (isinstance(kind, type) and issubclass(kind, BaseException))
