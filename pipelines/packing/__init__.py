"""Images into shards: `pack.py`, with progress, and as Ray tasks where it is worth it."""
