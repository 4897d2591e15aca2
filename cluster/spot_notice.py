"""Notify Ray when the cloud is about to take this spot node away, so that the workers save.

    python -P -m cluster.spot_notice --cloud aws --address HEAD:6379

`ray up` does not drain nodes: aws.yaml and gcp.yaml start this on each spot node, where it asks the
metadata service every few seconds. EC2 gives two minutes (`spot/instance-action`, by IMDSv2),
Google half a minute (`instance/preempted`). On Kubernetes Ray drains a node when its pod is
deleted.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Literal, NoReturn

Cloud = Literal["aws", "gcp"]
METADATA: Mapping[Cloud, str] = {
    "aws": "http://169.254.169.254",
    "gcp": "http://metadata.google.internal",
}
GCP_NOTICE_SECONDS = 30.0
EVERY_SECONDS = 5.0
_ANSWER_SECONDS = 2.0
_TOKEN_SECONDS = 21600  # the longest that EC2 allows
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy


class MetadataSilent(Exception):
    """The metadata service does not answer, or its answer is not as documented."""


class Ec2:
    """Spot notices of EC2 by IMDSv2: every request has a token."""

    def __init__(self, url: str) -> None:
        self._url, self._token = url, ""

    def seconds_left(self) -> float | None:
        """Seconds until the instance is taken away; None if there is no notice yet."""
        path = "/latest/meta-data/spot/instance-action"
        status, text = self._ask(path)
        if status == 401:  # the token expired
            self._token = ""
            status, text = self._ask(path)
        if status == 404:
            return None
        if status != 200:
            raise MetadataSilent(f"{self._url}{path} answered {status}")
        try:
            at = datetime.strptime(json.loads(text)["time"], "%Y-%m-%dT%H:%M:%SZ")
        except (ValueError, KeyError, TypeError) as error:
            raise MetadataSilent(f"{self._url}{path} answered {text[:200]!r}: {error}") from None
        return max(0.0, (at.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds())

    def _ask(self, path: str) -> tuple[int, str]:
        if not self._token:
            ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
            status, self._token = _fetch(f"{self._url}/latest/api/token", ttl, method="PUT")
            if status != 200:
                self._token = ""
                raise MetadataSilent(f"{self._url} gave no token: status {status}")
        return _fetch(f"{self._url}{path}", {"X-aws-ec2-metadata-token": self._token})


class ComputeEngine:
    """Preemption notices of Google's Compute Engine."""

    def __init__(self, url: str) -> None:
        self._url = url

    def seconds_left(self) -> float | None:
        """Seconds until the machine is taken away; None if there is no notice yet."""
        url = f"{self._url}/computeMetadata/v1/instance/preempted"
        status, text = _fetch(url, {"Metadata-Flavor": "Google"})
        if status != 200 or text.strip() not in ("TRUE", "FALSE"):
            raise MetadataSilent(f"{url} answered {status}: {text[:200]!r}")
        return GCP_NOTICE_SECONDS if text.strip() == "TRUE" else None


def drain_command(address: str, seconds_left: float) -> list[str]:
    """Command line that tells Ray when this node will be gone."""
    return [
        *("ray", "drain-node", "--address", address),
        *("--reason", "DRAIN_NODE_REASON_PREEMPTION"),
        *("--reason-message", "the cloud takes this spot node away"),
        *("--deadline-remaining-seconds", str(int(seconds_left))),
    ]


def wait_for_notice(
    seconds_left: Callable[[], float | None], *, every: float, say: Callable[[str], None]
) -> float:
    """Ask until there is a notice; return the seconds left. `say` reports when asking fails."""
    silent = ""
    while True:
        try:
            left = seconds_left()
        except MetadataSilent as error:
            if str(error) != silent:  # once, not every five seconds
                silent = str(error)
                say(f"notices cannot be received: {silent}")
        else:
            if silent:
                silent = ""
                say("the metadata service answers again")
            if left is not None:
                return left
        time.sleep(every)


def _fetch(url: str, headers: Mapping[str, str], *, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(url, headers=dict(headers), method=method)  # noqa: S310  # http of the metadata service
    try:
        with _OPENER.open(request, timeout=_ANSWER_SECONDS) as reply:
            return reply.status, reply.read(4096).decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError as error:
        raise MetadataSilent(f"{url}: {error}") from None


def _say(text: str) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}", flush=True)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Wait for a notice, then drain this node; exit with what `ray drain-node` exits with."""
    parser = argparse.ArgumentParser(prog="cluster.spot_notice", description=__doc__)
    parser.add_argument("--cloud", choices=sorted(METADATA), required=True)
    parser.add_argument("--address", required=True, help="HOST:PORT of the cluster's head")
    parser.add_argument("--metadata", help="URL of another metadata service, for tests")
    parser.add_argument(
        "--every", type=float, default=EVERY_SECONDS, help="seconds between two requests"
    )
    given = parser.parse_args(arguments)
    url = given.metadata or METADATA[given.cloud]
    service = Ec2(url) if given.cloud == "aws" else ComputeEngine(url)
    left = wait_for_notice(service.seconds_left, every=given.every, say=_say)
    _say(f"notice: this node is taken away in {left:.0f} s; draining it")
    # Ray looks up this node's id at RAY_ADDRESS.
    environment = os.environ | {"RAY_ADDRESS": given.address}
    done = subprocess.run(drain_command(given.address, left), env=environment)  # noqa: S603  # fixed words and the address given
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
