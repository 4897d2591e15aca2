"""What Prometheus would find: the names that Ray's nodes export, and those that a dashboard asks
for."""

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[3] / "cluster" / "grafana"
_METRIC = re.compile(r"\b(?:ray|autoscaler)_\w+")


def dashboard() -> dict[str, Any]:
    return json.loads((FOLDER / "dashboard.json").read_text())


def asked_for() -> set[str]:
    """Metric names in the queries of panels and variables."""
    board = dashboard()
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    queries += [one["query"] for one in board["templating"]["list"]]
    return {name for query in queries for name in _METRIC.findall(query)}


def scraped(target: str) -> str:
    """What HOST:PORT exports now; asked directly, because a proxy does not know our nodes."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://{target}/metrics", timeout=20) as reply:
        return reply.read().decode()


def exported(discovery: Path) -> set[str]:
    """Metric names on all ports that Ray's service discovery file lists now."""
    names: set[str] = set()
    for group in json.loads(discovery.read_text()):
        for target in group["targets"]:
            try:
                text = scraped(target)
            except OSError:
                continue  # a node that is going
            names |= {re.split(r"[{ ]", line)[0] for line in text.splitlines() if line[:1] != "#"}
    return names
