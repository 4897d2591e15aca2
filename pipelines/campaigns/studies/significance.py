"""When a difference of means counts: Student's t for comparisons that were planned, Holm's steps
where a sentence makes several, and Tukey's studentised range where the best is picked first.

With few seeds the spread itself is barely known: two standard errors, right for hundreds of runs,
would be exceeded by noise alone in a third of the comparisons of two pairs of runs.
"""

import functools
import math
from collections.abc import Sequence

from scipy.special import stdtr
from scipy.stats import studentized_range

LEVEL = 0.05
"""How often noise alone may make a sentence claim something."""


def student_p(difference: float, error: float, degrees: int) -> float:
    """Two-sided p-value of a difference of two means.

    Args:
        difference: of the means.
        error: its standard error.
        degrees: of freedom of the spread that the error follows from.
    """
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stdtr(degrees, -abs(difference) / error))


def holm(p_values: Sequence[float]) -> list[bool]:
    """Which of several comparisons count, so that in all of them noise claims at most `LEVEL`."""
    counts = [False] * len(p_values)
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for tried, index in enumerate(order):
        if p_values[index] > LEVEL / (len(p_values) - tried):
            break
        counts[index] = True
    return counts


def range_counts(difference: float, error: float, *, of: int, degrees: int) -> bool:
    """Whether two of `of` means differ, though they were picked because they do (Tukey-Kramer)."""
    if of < 2 or error == 0:
        return difference != 0
    return abs(difference) / error * math.sqrt(2) > _critical_range(of, degrees)


@functools.cache
def _critical_range(of: int, degrees: int) -> float:
    return float(studentized_range.ppf(1 - LEVEL, of, degrees))
