#!/usr/bin/env -S python3 -P
"""Fine-tune a run's weights on every task of a suite: pipelines/suite.py small."""

from pipelines.campaigns.suites.command import main

if __name__ == "__main__":
    main("Fine-tune the same weights on every task of a suite; the table has group means.")
