#!/usr/bin/env -S python3 -P
"""Run one of the paper's studies, or --plan it: pipelines/study.py pos-embed."""

from pipelines.campaigns.studies.command import main

if __name__ == "__main__":
    main("Run one of the paper's studies: stages, table, figure, conclusion.")
