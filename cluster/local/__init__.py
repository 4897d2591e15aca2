"""A real cluster on a laptop: Ray with its autoscaler, an S3 server and an MLflow server.

    python -m cluster.local up        start it, print how to submit
    python -m cluster.local status    show what runs
    python -m cluster.local down      stop it; --delete also deletes what it stored

Nodes are raylets, started and stopped by the autoscaler as on a cloud, each a process tree on this
machine. Everything listens on loopback, and Ray requires a token.
"""
