#!/usr/bin/env -S python3 -P
"""What is committed and what would run: pipelines/status.py [--recipe NAME] [--run NAME]."""

from pipelines.lineage.command import main

if __name__ == "__main__":
    main("List runs, stages and their lineage, and what the pipeline would do now, and why.")
