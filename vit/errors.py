"""What a user can mend of a model: settings that contradict each other, weights that do not fit.

BadModel (ValueError)
"""


class BadModel(ValueError):
    """A model, an optimizer or weights that cannot be what was asked for; says what would be."""
