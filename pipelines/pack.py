#!/usr/bin/env -S python3 -P
"""Pack images into WebDataset shards and a manifest: pipelines/pack.py SOURCE --help."""

from pipelines.packing.command import main

if __name__ == "__main__":
    main("Pack images into WebDataset shards and a dataset manifest.")
