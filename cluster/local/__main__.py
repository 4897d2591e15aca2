"""`python -m cluster.local up | status | down`."""

import argparse
import sys
from pathlib import Path

from cluster.errors import BadPlace
from cluster.local.head import Nodes
from cluster.local.laptop import down, status, up


def main() -> int:
    """Run the command; return 0, 2 after a one-line error message, or 1 if a server failed."""
    parser = argparse.ArgumentParser(prog="python -m cluster.local", description=__doc__)
    parser.add_argument("command", choices=("up", "status", "down"))
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("local-cluster"),
        help="folder for token, keys, S3's and MLflow's data, logs (default: %(default)s)",
    )
    default = Nodes()
    parser.add_argument("--nodes", type=int, default=default.most, help="most nodes (%(default)s)")
    parser.add_argument(
        "--cpus", type=int, default=default.cpus, help="CPUs that each node reports (%(default)s)"
    )
    parser.add_argument(
        "--idle-seconds",
        type=float,
        default=default.idle_seconds,
        help="seconds without work after which a node is stopped (%(default)s)",
    )
    parser.add_argument("--delete", action="store_true", help="down: also delete the folder")
    options = parser.parse_args()
    folder = options.folder.absolute()
    try:
        if options.command == "up":
            nodes = Nodes(most=options.nodes, cpus=options.cpus, idle_seconds=options.idle_seconds)
            print(up(folder, nodes))
        elif options.command == "status":
            print(status(folder))
        else:
            print(down(folder, delete=options.delete))
    except BadPlace as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


sys.exit(main())
