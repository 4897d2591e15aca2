#!/usr/bin/env -S python3 -P
"""Run every stage of a recipe in order, skipping what is committed: pipelines/pipeline.py."""

from pipelines.training.command import main

if __name__ == "__main__":
    main("Run all stages of a recipe; committed ones are skipped.")
