#!/usr/bin/env -S python3 -P
"""What a recipe takes: pipelines/plan.py [--recipe NAME] [--on p4d] [--cluster.nodes 4]."""

from pipelines.planning.command import main

if __name__ == "__main__":
    main("Print memory, time, network, requests and cost of a recipe before it is started.")
