"""What can go wrong with a place, as opposed to a recipe.

ClusterError
└── BadPlace (ValueError)      the user's mistake: settings that cannot work, said before training
"""


class ClusterError(Exception):
    """Root of this package's errors."""


class BadPlace(ClusterError, ValueError):
    """Settings that cannot work: a wrong key, an impossible batch, too few CPUs."""
