"""The doctor on real small parts (directory, S3 server, SQLite, gloo), and on broken ones."""

import http.server
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.local.s3 import S3Server
from pipelines.checks import doctor as checkup
from pipelines.checks import machine as machine_checks
from pipelines.checks import ray_cluster, services, storage_root
from pipelines.checks.doctor import examine
from pipelines.checks.finding import Finding, fail, ok
from pipelines.cli.command_line import read_command
from pipelines.cli.options import Command
from pipelines.cli.redaction import scrub
from pipelines.tracking.client import open_client
from storage.local import LocalStore
from tests.pipelines.conftest import Said

LOCAL = "http://127.0.0.1:9"  # nothing listens there


def asked(*argv: str, recipe: str = "digits") -> Command:
    arguments = ["--recipe", recipe, *argv]
    return read_command(arguments, prog="doctor.py", description="")


def test_versions_fit_pyproject() -> None:
    found = machine_checks.check_versions(asked())
    assert found.status == "ok", found
    assert "ray 2.60" in found.text


def test_a_wrong_version_names_package_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks, "requires", lambda name: ["ray>=3", "no-such-package>=1"])
    found = machine_checks.check_versions(asked())
    assert found.status == "FAIL"
    assert "is not >=3; no-such-package>=1 is missing - pip install" in found.text


def test_a_variable_that_lets_data_run_code_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine_checks.check_environment(asked()).status == "ok"
    monkeypatch.setenv("RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE", "1")
    found = machine_checks.check_environment(asked())
    assert (found.status, "unset it" in found.text) == ("FAIL", True)


def test_gloo_is_tried() -> None:
    assert machine_checks.check_collectives(asked()) == ok("collectives", "gloo")


def test_the_decoder_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks, "turbojpeg", lambda: None)
    found = machine_checks.check_decoder(asked())
    assert (found.status, "libturbojpeg 3" in found.text) == ("ok", True)
    library = SimpleNamespace(path="/opt/lib/libturbojpeg.so.0")
    monkeypatch.setattr(machine_checks, "turbojpeg", lambda: library)
    assert "/opt/lib/libturbojpeg.so.0" in machine_checks.check_decoder(asked()).text


def test_missing_gpus_say_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks.torch.cuda, "is_available", lambda: False)
    found = machine_checks.check_devices(asked("--place.workers.gpus", "1"))
    assert (found.status, "workers.gpus" in found.text) == ("FAIL", True)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert machine_checks.check_devices(asked("--place.workers.gpus", "1")).status == "ok"


@pytest.mark.parametrize(
    ("gpus", "status", "said"),
    [(0, "ok", "CPUs"), (1, "warn", "its 1 GPUs stay idle (fewer than workers.min 2)")],
)
def test_null_gpus_are_those_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, gpus: int, status: str, said: str
) -> None:
    monkeypatch.setattr(machine_checks, "gpus_here", lambda: gpus)
    two = asked("--place.workers.min", "2")
    found = machine_checks.check_devices(two)
    assert (found.status, said in found.text) == (status, True), found
    assert not machine_checks.on_gpus(two)
    assert machine_checks.on_gpus(asked()) == (gpus > 0)


def test_a_model_too_large_for_this_memory_names_the_micro_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert machine_checks.check_memory(asked()).status == "ok"
    large = asked("--pretrain.model.width", "1024", "--pretrain.model.image-size", "256")
    here = machine_checks.hardware_here(large)
    assert here is not None
    small = replace(here, memory_gibibytes=12.0)
    monkeypatch.setattr(machine_checks, "hardware_here", lambda command: small)
    found = machine_checks.check_memory(large)
    assert found.status == "FAIL"
    assert "GiB per worker, there are 6.0 - set --place.max-micro-batch" in found.text


def test_a_full_disk_says_how_much_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = asked("--place.storage-root", str(tmp_path / "not" / "yet"))
    assert machine_checks.check_disk(command).status == "ok"
    usage = machine_checks.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(machine_checks.shutil, "disk_usage", lambda folder: usage)
    found = machine_checks.check_disk(command)
    assert (found.status, "free space" in found.text) == ("FAIL", True)


def test_a_directory_takes_everything(tmp_path: Path) -> None:
    found = storage_root.check_storage(asked("--place.storage-root", str(tmp_path)))
    assert found.status == "ok", found
    assert list(tmp_path.iterdir()) == []


def test_a_root_in_the_way_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = storage_root.check_storage(asked("--place.storage-root", str(tmp_path / "file/r")))
    assert (found.status, str(tmp_path) in found.text) == ("FAIL", True)


def test_an_s3_root_takes_everything_and_agrees_on_the_time(s3_server: S3Server) -> None:
    command = asked("--place.storage-root", s3_server.uri("doctor"))
    with s3_server.environment():
        found = storage_root.check_storage(command)
        clock = storage_root.check_clock(command)
    assert (found.status, clock.status) == ("ok", "ok"), (found, clock)
    assert "conditional put" in found.text


def test_wrong_keys_and_a_missing_server_fail_without_naming_keys(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = asked("--place.storage-root", s3_server.uri("doctor"))
    with s3_server.environment():
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
        refused = storage_root.check_storage(command)
        monkeypatch.setenv("AWS_ENDPOINT_URL", LOCAL)
        absent = storage_root.check_storage(command)
        clock = storage_root.check_clock(command)
    assert {refused.status, absent.status, clock.status} == {"FAIL"}
    assert "refused" in refused.text
    assert "127.0.0.1:9" in absent.text
    assert "wrong-secret" not in str(refused)


def test_a_server_without_conditional_writes_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Careless(LocalStore):
        def write(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
            super().write(key, data)

    monkeypatch.setattr(storage_root, "impatient_store", lambda uri: Careless(tmp_path))
    found = storage_root.check_storage(asked("--place.storage-root", str(tmp_path)))
    assert (found.status, "If-None-Match" in found.text) == ("FAIL", True)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def server_behind() -> Iterator[str]:
    """A server whose clock is 20 minutes late."""

    class Late(http.server.BaseHTTPRequestHandler):
        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate(time.time() - 1200, usegmt=True)

        def do_GET(self) -> None:
            self.send_response(403)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Late)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_clock_that_is_off_fails(server_behind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server_behind)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    found = storage_root.check_clock(asked("--place.storage-root", "s3://b/r"))
    assert found.status == "FAIL"
    assert "s ahead of the storage's: signatures will be refused" in found.text


def test_a_database_is_written_to_and_a_missing_one_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    command = asked("--place.mlflow-uri", f"sqlite:///{path}")
    assert "will be created" in services.check_mlflow(command).text
    assert not path.exists()
    open_client(f"sqlite:///{path}").create_experiment("digits")
    assert "accepts writes" in services.check_mlflow(command).text


def test_an_unreachable_tracking_server_fails() -> None:
    found = services.check_mlflow(asked("--place.mlflow-uri", "http://me:pw@127.0.0.1:9"))
    assert found.status == "FAIL"
    assert "cannot be used" in found.text
    assert "pw" not in str(found)


def test_packed_data_is_whole_and_missing_data_names_the_command(
    local_data: str, tmp_path: Path
) -> None:
    found = services.check_data(asked("--place.data-root", local_data))
    assert (found.status, "1 shards for 2 workers" in found.text) == ("ok", True), found
    found = services.check_data(asked("--place.data-root", str(tmp_path)))
    assert (found.status, "pack.py" in found.text) == ("FAIL", True)


def test_a_missing_checkpoint_fails() -> None:
    command = asked("--pretrain.init", "nowhere.npz")
    found = services.check_init(command)
    assert (found.status, "nowhere.npz" in found.text) == ("FAIL", True)
    assert services.check_init(asked()).status == "ok"


def test_a_cluster_that_grows_needs_a_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a stage says that would train on it."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    growing = ("--place.wait-for-nodes", "--place.workers.gpus", "1")
    found = ray_cluster.check_ray(asked(*growing))
    assert (found.status, "--place.workers.max" in found.text) == ("FAIL", True)
    assert ray_cluster.check_ray(asked(*growing, "--place.workers.max", "8")).status == "ok"


def test_without_an_address_this_machine_must_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert ray_cluster.check_ray(asked()).status == "ok"
    found = ray_cluster.check_ray(asked("--place.workers.cpus", "1000"))
    assert (found.status, "but the cluster has" in found.text) == ("FAIL", True)


def test_an_unreachable_cluster_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    found = ray_cluster.check_ray(asked())
    assert found.status == "FAIL"
    assert "nothing answers at RAY_ADDRESS=127.0.0.1:9" in found.text


def test_a_running_cluster_takes_our_token_and_no_other(
    ray_session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_session)
    found = ray_cluster.check_ray(asked())
    assert found.status == "ok", found
    assert "4 CPUs" in found.text
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "not-the-token-of-this-cluster")
    refused = ray_cluster.check_ray(asked())
    assert (refused.status, "RAY_AUTH_TOKEN" in refused.text) == ("FAIL", True), refused
    assert "not-the-token" not in str(refused)


def test_a_check_that_hangs_or_breaks_fails_and_the_others_are_told() -> None:
    def check_fine(command: Command) -> Finding:
        return ok("fine", "yes")

    def check_stuck(command: Command) -> Finding:
        threading.Event().wait()
        return ok("stuck", "never")

    def check_broken(command: Command) -> Finding:
        raise OSError("no such thing")

    began = time.monotonic()
    found = examine(asked(), (check_stuck, check_broken, check_fine), seconds=0.5)
    assert time.monotonic() - began < 5
    assert found == [
        fail("stuck", "no answer within 0.5 s"),
        fail("broken", "OSError: no such thing"),
        ok("fine", "yes"),
    ]


def test_a_check_that_hangs_or_breaks_has_the_name_of_one_that_answers() -> None:
    def check_ray(command: Command) -> Finding:
        raise OSError("no such thing")

    def check_mlflow(command: Command) -> Finding:
        threading.Event().wait()
        return ok("MLflow", "never")

    found = examine(asked(), (check_ray, check_mlflow), seconds=0.2)
    assert [one.name for one in found] == ["Ray", "MLflow"]


def test_lines_hold_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    assert scrub("a planted-secret at\nhttps://me:pw@host/x") == "a *** at https://***@host/x"


def test_a_healthy_place_passes_and_a_broken_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
    called: Callable[..., Said],
    place: list[str],
    tmp_path: Path,
) -> None:
    # two workers and a decoding task, whatever this machine has
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    said = called(checkup.main, "doctor", *place)
    assert said.code == 0, said.out
    assert len(said.out.splitlines()) == len(checkup.MACHINE) + len(services.CHECKS) + 1
    said = called(checkup.main, "doctor", *place, "--place.data-root", str(tmp_path / "none"))
    assert said.code == 1
    (line,) = [line for line in said.out.splitlines() if line.startswith("FAIL")]
    assert "data" in line
    assert called(checkup.main, "doctor", "--recipe", "cats").code == 2
