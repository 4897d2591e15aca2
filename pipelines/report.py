#!/usr/bin/env -S python3 -P
"""One HTML page of a run, from MLflow and the manifests: pipelines/report.py --run NAME."""

from pipelines.reporting.command import main

if __name__ == "__main__":
    main("Write one self-contained HTML page of a run, and log it to MLflow.")
