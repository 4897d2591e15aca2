#!/usr/bin/env -S python3 -P
"""Measure what weights are worth: pipelines/evaluate.py [--only STAGE | --weights URI]."""

from pipelines.evaluation.command import main

if __name__ == "__main__":
    main("Measure a stage's or a public checkpoint's weights on a packed dataset.")
