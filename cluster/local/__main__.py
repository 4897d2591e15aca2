"""`python -m cluster.local up | status | down`."""

import argparse
import sys
from pathlib import Path

from cluster.errors import BadPlace
from cluster.local.head import Nodes
from cluster.local.laptop import down, status, up


def main() -> int:
    """Do what the command line says; 0, or 2 after one line of error, 1 where a server failed."""
    parser = argparse.ArgumentParser(prog="python -m cluster.local", description=__doc__)
    parser.add_argument("command", choices=("up", "status", "down"))
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("local-cluster"),
        help="what it stores: token, keys, S3's and MLflow's data, logs (default: %(default)s)",
    )
    default = Nodes()
    parser.add_argument("--nodes", type=int, default=default.most, help="most nodes (%(default)s)")
    parser.add_argument(
        "--cpus", type=int, default=default.cpus, help="CPUs a node says it has (%(default)s)"
    )
    parser.add_argument(
        "--idle-seconds",
        type=float,
        default=default.idle_seconds,
        help="a node without work for so long is ended (%(default)s)",
    )
    parser.add_argument("--delete", action="store_true", help="down: delete the folder, too")
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
