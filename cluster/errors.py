"""Errors of the deployment settings, as opposed to those of a recipe.

ClusterError
└── BadPlace (ValueError)      the user's mistake: settings that cannot work, raised before training
"""


class ClusterError(Exception):
    """Base class of this package's errors."""


class BadPlace(ClusterError, ValueError):
    """Settings that cannot work: a wrong key, an impossible batch, too few CPUs."""
