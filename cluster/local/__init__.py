"""A laptop cluster that is a real one: Ray's own autoscaler, an S3 server and an MLflow server.

    python -m cluster.local up        start it, print how to submit
    python -m cluster.local status    what runs
    python -m cluster.local down      end it; --delete also deletes what it stored

Nodes are raylets, started and ended by the autoscaler as on a cloud, each a process tree on this
machine. Everything listens on loopback and Ray asks for a token.
"""
