"""Mistakes that a user can correct: settings that contradict each other, weights that do not fit.

BadModel (ValueError)
"""


class BadModel(ValueError):
    """A model, optimizer or weights cannot be as requested. The message says what would work."""
