"""The fixtures of the pipelines' tests."""

from tests.pipelines.conftest import called, command, local_data, place

__all__ = ["called", "command", "local_data", "place"]
