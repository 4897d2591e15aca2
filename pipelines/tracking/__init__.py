"""MLflow: runs, metrics, files and models. No other package imports mlflow."""

import logging
import os

# MLflow reads these when it is imported.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the spool retries as well
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # at the end of every run
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # migrations, monitors that start and stop

logging.getLogger("mlflow.store.db.utils").setLevel(
    logging.CRITICAL
)  # tracebacks of errors that are raised anyway
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # logs a line per retry
# Also where the program had imported mlflow before, as it may from Python.
logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
