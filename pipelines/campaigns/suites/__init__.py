"""Transfer suites: many small tasks, fine-tuned from the same weights. `pipelines/suite.py NAME`.

suite     what a suite is, and the stages of its tasks
vtab      VTAB's 19 tasks
small     tasks of the digits and of Fashion-MNIST, which pack offline
command   the command line: sweep on held-out examples, then the final runs
report    group means, spread, files
"""

from pipelines.campaigns.suites.small import SMALL
from pipelines.campaigns.suites.suite import Suite
from pipelines.campaigns.suites.vtab import VTAB
from pipelines.recipes.errors import Mistake

SUITES: dict[str, Suite] = {suite.name: suite for suite in (SMALL, VTAB)}


def find_suite(name: str) -> Suite:
    """Return the suite with that name.

    Raises:
        Mistake: there is none; lists the known ones.
    """
    if name not in SUITES:
        raise Mistake(f"no suite {name!r} - there are: {', '.join(SUITES)}")
    return SUITES[name]
