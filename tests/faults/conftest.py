"""The fixtures of the pipelines' tests."""

from tests.pipelines.conftest import called, command, empty_mlflow, local_data, place

__all__ = ["called", "command", "empty_mlflow", "local_data", "place"]
