"""One stage on every rank: the loop, what feeds it, what it measures and what it survives."""
