#!/usr/bin/env -S python3 -P
"""Check a place before a job is submitted: pipelines/doctor.py [--recipe NAME] [--place.FIELD]."""

from pipelines.checks.doctor import main

if __name__ == "__main__":
    main("Check packages, devices, Ray, storage, MLflow, data and memory, a line each.")
