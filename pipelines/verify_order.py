#!/usr/bin/env -S python3 -P
"""Prove the order on this cluster: pipelines/verify_order.py [--recipe NAME] [--workers 1 2 4]."""

from pipelines.checks.order import main

if __name__ == "__main__":
    main("Read a stage's data with several worker counts, unbroken and killed, and compare.")
