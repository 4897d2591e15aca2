"""The part of IAM's evaluation that our policies use: moto stores policies but does not apply
conditions. An allowed action is one that some Allow statement matches (none of ours denies)."""

from fnmatch import fnmatchcase
from typing import Any

Context = dict[str, str]
_TESTS = {
    "StringEquals": lambda found, wanted: found == wanted,
    "ArnEquals": lambda found, wanted: found == wanted,
    "Bool": lambda found, wanted: found == wanted,
}


def allows(statements: list[dict[str, Any]], action: str, resource: str, context: Context) -> bool:
    """Whether the statements allow the action; a condition key that is absent does not match."""
    return any(
        statement["Effect"] == "Allow"
        and _matches(statement["Action"], action)
        and _matches(statement["Resource"], resource)
        and _holds(statement.get("Condition", {}), context)
        for statement in statements
    )


def _matches(patterns: str | list[str], value: str) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in _list(patterns))


def _holds(condition: dict[str, dict[str, Any]], context: Context) -> bool:
    return all(
        any(_TESTS[operator](context.get(key), wanted) for wanted in _list(values))
        for operator, pairs in condition.items()
        for key, values in pairs.items()
    )


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
