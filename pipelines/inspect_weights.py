#!/usr/bin/env -S python3 -P
"""Pictures of what a network learned to look at: pipelines/inspect_weights.py [--weights URI]."""

from pipelines.inspection.command import main

if __name__ == "__main__":
    main("Draw filters, position embeddings, attention distance and rollout of weights.")
