"""Log one stage attempt to the tracking server without ever waiting for it.

Metrics, files and the final status go into a spool on local disk, which a thread delivers in order.
If some are undelivered when the process ends, the next run of the same command delivers them.
"""

import base64
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipelines.cli.redaction import scrub
from pipelines.tracking.history import History, MetricPoint
from pipelines.tracking.server import Refused, Server
from pipelines.tracking.spool import Record, Spool

FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"
CLOSE_SECONDS = 15.0  # to deliver the rest when a stage ends
SYSTEM_SECONDS = 5.0
_FILE_TRIES = 3


class _NoArtifact(Exception):
    """The server answers, but its artifact store refuses a file."""


class Tracker:
    """The run of one stage attempt. No call waits for the server.

    Args:
        server: the run on the server.
        run_id: its id, which resume states and the manifest record.
        spool_file: where records wait; those from an earlier process are delivered first.
        continues: whether more will be logged; if so, an end of the run that an earlier process
            left in the spool is dropped.
        copy: is given every metric too, and may raise OSError.

    Raises:
        SpoolInUse: another process writes this run.
        OSError: the spool cannot be written.
    """

    def __init__(
        self,
        server: Server,
        run_id: str,
        spool_file: Path,
        *,
        continues: bool = True,
        copy: Callable[[Sequence[MetricPoint]], None] | None = None,
    ) -> None:
        self.run_id, self.history = run_id, History()
        self._server, self._copy = server, copy
        self._session = uuid.uuid4().hex if continues else None
        self._spool = Spool(spool_file, self._send)
        self.ended_ms: int | None = None
        """When an earlier process ended, if its end record is still in the spool."""
        self.files_waiting: set[str] = set()
        """Names of files that an earlier process could not deliver."""
        for record in self._spool.records():
            self.history.carry_over(record.get("metrics", ()))
            self.ended_ms = record.get("ended_ms", self.ended_ms)
            if "file" in record:
                self.files_waiting.add(record["file"])
        self._ended, self._file_failures = threading.Event(), 0
        self._given_up: set[str] = set()  # files that the artifact store refused
        self._files_fail = False
        self._warnings: dict[str, str] = {}
        self._reported: set[str] = set()
        self._owed = self._spool.inherited

    def start(self) -> None:
        """Start to deliver records."""
        self._spool.start()

    def log_steps(self, records: Sequence[Mapping[str, float]]) -> None:
        """Log the metrics of several steps; each record has its `step`.

        Steps that are repeated after a restart are not logged again.
        """
        self._put_points(self.history.new(records, now_ms=_now_ms()))

    def log_start(self, step: int) -> None:
        """Log restarts, and the steps they cost, when the worker group starts at `step`."""
        self._put_points(self.history.start(step, now_ms=_now_ms()))

    def log_file(self, name: str, data: bytes) -> None:
        """Log a small file; `name` may contain folders."""
        self._spool.put({"file": name, "data": base64.b64encode(data).decode()})

    def log_model(self, step: int) -> None:
        """Add the committed weights, of so many steps, as a model that lies elsewhere."""
        self._spool.put({"model": step})

    def watch(self, sample: Callable[[], Mapping[str, float]], prefix: str) -> None:
        """Log what `sample` returns every few seconds; steps continue after the last logged one."""
        first = self.history.next_step(prefix)

        def run() -> None:
            step = first
            while not self._ended.wait(SYSTEM_SECONDS):
                try:
                    values, now = sample(), _now_ms()
                    self._put_points([(prefix + k, float(v), now, step) for k, v in values.items()])
                except BaseException as error:  # from a GPU driver, the kernel or the disk
                    self._warn(prefix, f"no more metrics of {prefix} {_named(error)}")
                    return
                step += 1

        threading.Thread(target=run, name="watch", daemon=True).start()

    def end(self, status: str, *, ended_ms: int | None = None) -> None:
        """Close the run as FINISHED, FAILED or KILLED; wait `CLOSE_SECONDS` at most."""
        self._ended.set()
        ended_ms = ended_ms or _now_ms()
        self._spool.put({"end": status, "ended_ms": ended_ms, "session": self._session})
        kept = self._spool.close(CLOSE_SECONDS)
        if kept:
            again = "run the same command again to deliver them"
            self._warn("kept", f"{kept} records for MLflow are kept in {self._spool.path}; {again}")

    @contextmanager
    def running(self, say: Callable[[str], None]) -> Iterator[None]:
        """End the run when the block ends: as FINISHED, as KILLED at Ctrl-C, else as FAILED.

        `say` prints a line; it is called with each of the final notices.
        """
        status = FAILED
        try:
            yield
            status = FINISHED
        except KeyboardInterrupt:
            status = KILLED
            raise
        finally:
            self.end(status)
            for line in self.notices():
                say(line)

    def release(self) -> None:
        """Close the spool and leave the run unchanged."""
        self._spool.close(0.0)

    def notices(self) -> list[str]:
        """Return new notices for the user, one per line; each is returned once."""
        spool, lines = self._spool, []
        trouble, owing = spool.trouble, bool(spool.inherited)
        away = trouble is not None and not isinstance(trouble, _NoArtifact)
        if away and "away" not in self._reported:
            self._reported.add("away")
            lines.append(
                f"warning: MLflow at {self._server.name} takes no metrics: {scrub(trouble)[:200]};"
                f" training goes on, they are kept in {spool.path}"
            )
        if trouble is None and not owing and ("away" in self._reported or self._owed):
            of_before = (
                f", including {self._owed} records of an earlier process" if self._owed else ""
            )
            lines.append(f"MLflow has all metrics{of_before}")
            self._reported.discard("away")
            self._owed = 0
        if spool.died is not None:
            again = "they are kept, and delivered when the same command is run again"
            self._warn(
                "died",
                f"MLflow at {self._server.name} gets no more metrics: {_named(spool.died)};"
                f" training goes on, {again}",
            )
        if spool.lost:
            self._warn("lost", f"{spool.path} cannot be written or read; metrics are lost")
        for kind, text in list(self._warnings.items()):
            if kind not in self._reported:
                self._reported.add(kind)
                lines.append(f"warning: {text}")
        return lines

    def _warn(self, kind: str, text: str) -> None:
        # a new dict: notices() may be iterating over the old one
        self._warnings = {**self._warnings, kind: text}

    def _put_points(self, points: Sequence[MetricPoint]) -> None:
        if not points:
            return
        self._spool.put({"metrics": points})
        if self._copy is None:
            return
        try:
            self._copy(points)
        except OSError as error:
            self._copy = None
            self._warn("copy", f"TensorBoard gets no more metrics: {_named(error)}")

    def _send(self, records: Sequence[Record]) -> None:
        """Deliver records, on the spool's thread; raise if the server does not answer."""
        points: list[MetricPoint] = [p for record in records for p in record.get("metrics", ())]
        if points:
            with self._refusable():
                self._server.log_points(points)
        for record in records:
            if "file" in record:
                self._send_file(record["file"], base64.b64decode(record["data"]))
            elif "model" in record:
                with self._refusable():
                    self._server.log_model(record["model"])
            elif "end" in record and self._session in (None, record["session"]):
                with self._refusable():
                    self._server.end(record["end"], record["ended_ms"])
        self._given_up.clear()

    def _send_file(self, name: str, data: bytes) -> None:
        """Send a file; give up on one that cannot be stored, so that metrics are not held back.

        The first failing file is tried several times. After that each file is tried once, until
        one succeeds.
        """
        if name in self._given_up:  # this chunk is being sent again because of another file
            return
        try:
            with self._refusable():
                self._server.log_file(name, data)
        except Exception as error:  # artifact stores raise their own kinds
            self._server.answer()
            self._file_failures += 1
            if self._file_failures < _FILE_TRIES and not self._files_fail:
                raise _NoArtifact(str(error)) from error
            self._files_fail = True
            self._given_up.add(name)
            text = f"{name} is not in MLflow, nor are other files that its artifact store refuses"
            if "files" not in self._warnings:  # name only the first
                self._warn("files", f"{text}: {scrub(error)[:200]}")
        else:
            self._files_fail = False
        self._file_failures = 0

    @contextmanager
    def _refusable(self) -> Iterator[None]:
        try:
            yield
        except Refused as error:
            self._warn("refused", f"MLflow refuses records: {scrub(error)[:200]}")


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {scrub(error)[:200]}"


def _now_ms() -> int:
    return int(time.time() * 1000)
