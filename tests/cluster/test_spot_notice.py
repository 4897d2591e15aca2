"""Spot notices of EC2 and Google, from a small metadata service on loopback to `ray drain-node`."""

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from cluster.spot_notice import ComputeEngine, Ec2, MetadataSilent, drain_command, wait_for_notice

CLUSTER = Path(__file__).parents[2] / "cluster"
EC2_PATH = "/latest/meta-data/spot/instance-action"
GCP_PATH = "/computeMetadata/v1/instance/preempted"


class Metadata(ThreadingHTTPServer):
    """What both clouds answer: tokens, 404 or FALSE until there is a notice."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.token, self.tokens_given, self.asked = "first", 0, 0
        self.action = ""
        self.broken = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def notice(self, seconds: float) -> None:
        at = datetime.now(UTC) + timedelta(seconds=seconds)
        self.action = f'{{"action": "terminate", "time": "{at:%Y-%m-%dT%H:%M:%SZ}"}}'


class Answers(BaseHTTPRequestHandler):
    server: Metadata  # type: ignore[assignment]  # the only one that these answers are for

    def do_PUT(self) -> None:
        assert self.path == "/latest/api/token"
        assert int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21600
        self.server.tokens_given += 1
        self._answer(200, self.server.token)

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.server.broken:
            self._answer(503, "")
        elif self.path == EC2_PATH:
            if self.headers.get("X-aws-ec2-metadata-token") != self.server.token:
                self._answer(401, "")
            else:
                self._answer(200 if self.server.action else 404, self.server.action)
        else:
            assert (self.path, self.headers["Metadata-Flavor"]) == (GCP_PATH, "Google")
            self._answer(200, "TRUE" if self.server.action else "FALSE")

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    server = Metadata()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_ec2_gives_no_notice_until_there_is_one(metadata: Metadata) -> None:
    service = Ec2(metadata.url)
    assert service.seconds_left() is None
    metadata.notice(120)
    assert service.seconds_left() == pytest.approx(120, abs=3)
    metadata.notice(-60)  # late: what is left is nothing, not less
    assert service.seconds_left() == 0
    assert metadata.tokens_given == 1


def test_a_token_that_ran_out_is_renewed(metadata: Metadata) -> None:
    service = Ec2(metadata.url)
    service.seconds_left()
    metadata.token = "second"
    metadata.notice(100)
    assert service.seconds_left() == pytest.approx(100, abs=3)
    assert metadata.tokens_given == 2


def test_google_gives_half_a_minute(metadata: Metadata) -> None:
    service = ComputeEngine(metadata.url)
    assert service.seconds_left() is None
    metadata.notice(0)
    assert service.seconds_left() == 30


def test_an_answer_that_nobody_expects_is_no_notice(metadata: Metadata) -> None:
    metadata.action = "soon"
    with pytest.raises(MetadataSilent, match="instance-action answered 'soon'"):
        Ec2(metadata.url).seconds_left()


def test_an_outage_is_said_once_and_survived(metadata: Metadata) -> None:
    said: list[str] = []
    metadata.broken = True
    found: list[float] = []
    seconds_left = Ec2(metadata.url).seconds_left
    waiting = threading.Thread(
        target=lambda: found.append(wait_for_notice(seconds_left, every=0.02, say=said.append))
    )
    waiting.start()
    while metadata.asked < 5:
        time.sleep(0.01)
    metadata.broken = False
    asked = metadata.asked
    while metadata.asked < asked + 3:
        time.sleep(0.01)
    metadata.notice(50)
    waiting.join(timeout=10)
    assert found == [pytest.approx(50, abs=3)]
    assert len(said) == 2
    assert "answered 503" in said[0]
    assert "answers again" in said[1]


def started(cloud: str) -> list[str]:
    """The words with which the launcher file starts the poller, from `python` on."""
    config = yaml.safe_load((CLUSTER / f"{cloud}.yaml").read_text())
    (line,) = (c for c in config["worker_start_ray_commands"] if "spot_notice" in c)
    words = shlex.split(line.split("nohup ")[1].split(" > ")[0])
    assert words[0] == "python"
    return [sys.executable, *words[1:]]


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_the_command_of_the_launcher_drains_its_node(
    cloud: str, metadata: Metadata, tmp_path: Path
) -> None:
    stand_in = tmp_path / "ray"
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$0.told"\n')
    stand_in.chmod(0o755)
    words = [word.replace("$RAY_HEAD_IP", "10.0.0.7") for word in started(cloud)]
    poller = subprocess.Popen(
        [*words, "--metadata", metadata.url, "--every", "0.05"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    while metadata.asked < 2 and poller.poll() is None:
        time.sleep(0.02)
    assert not (tmp_path / "ray.told").exists()
    metadata.notice(100)
    said, _ = poller.communicate(timeout=60)
    assert poller.returncode == 0
    assert "notice: this node is taken away in" in said
    told = (tmp_path / "ray.told").read_text().splitlines()
    assert told[:3] == ["drain-node", "--address", "10.0.0.7:6379"]
    assert "DRAIN_NODE_REASON_PREEMPTION" in told
    assert int(told[-1]) == pytest.approx(30 if cloud == "gcp" else 100, abs=5)


def test_ray_takes_the_drain_command() -> None:
    import ray.scripts.scripts  # a second

    _, name, *arguments = drain_command("10.0.0.7:6379", 99.9)
    command = ray.scripts.scripts.cli.get_command(None, name)  # type: ignore[arg-type]  # click wants no context here
    assert command is not None
    options = command.make_context(name, list(arguments)).params
    assert options["deadline_remaining_seconds"] == 99
    assert options["node_id"] is None  # its own
