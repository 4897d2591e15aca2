"""Environment variables that Ray reads when it is imported.

`pipelines/__init__.py` imports this file, before any other module can import Ray.
"""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a FutureWarning
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
# By default a local Ray ends idle processes after 1 s; the next stream would import all again.
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
# A worker's report waits until the previous one was fetched, by default every 2 s.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "1800")  # the default waits forever
# Hides a warning about tasks of half a CPU, which are intended; on few cores every stage has it.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "PYTHON worker processes have been started")
