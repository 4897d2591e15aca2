"""Format numbers for readers: few digits, a unit, a dash for unknown values."""

from collections.abc import Iterable, Mapping, Sequence

from pipelines.reporting.charts import number

UNKNOWN = "-"


def last_value(metrics: Mapping[str, float], name: str) -> str:
    """A metric's last value."""
    return number(metrics[name]) if name in metrics else UNKNOWN


def or_dash(text: str | None, unit: str = "") -> str:
    """Text with its unit."""
    return f"{text}{unit}" if text else UNKNOWN


def amount(value: float | None, unit: str = "") -> str:
    """1,500 -> 1.5 k: three digits and the SI prefix."""
    if value is None:
        return UNKNOWN
    size, prefix = _scaled(float(value), 1000, ("", "k", "M", "G", "T", "P", "E"))
    return f"{size:.3g} {prefix}{unit}".strip()


def byte_amount(value: float | None) -> str:
    """1,536 -> 1.5 KiB."""
    if value is None:
        return UNKNOWN
    size, prefix = _scaled(float(value), 1024, ("", "Ki", "Mi", "Gi", "Ti", "Pi"))
    return f"{size:.4g} {prefix}B"


def total(values: Iterable[float | None]) -> float | None:
    """The sum of what is known."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def counted(count: int, noun: str) -> str:
    """`1 field`, `2 fields`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _scaled(size: float, base: int, prefixes: Sequence[str]) -> tuple[float, str]:
    for prefix in prefixes[:-1]:
        if abs(size) < base - 0.5:
            return size, prefix
        size /= base
    return size, prefixes[-1]
