"""The user's mistakes: what is said in one line, with exit code 2 and without a traceback.

Every leaf has such a class in its `errors` module (`storage.errors.BadInput`,
`cluster.errors.BadPlace`, `vit.errors.BadModel`), and `pipelines` has this one; all of them are
ValueErrors. A plain ValueError is not among them: it is a fault of this code or of a library's.
"""

from cluster.errors import BadPlace
from storage.errors import BadInput
from vit.errors import BadModel


class Mistake(ValueError):
    """What was asked for cannot be done; the message says what can."""


MISTAKES = (Mistake, BadInput, BadPlace, BadModel)
"""Everything that a user can mend."""
