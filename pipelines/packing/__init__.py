"""Pack images into shards: `pack.py`, its progress, and Ray tasks for large datasets."""
