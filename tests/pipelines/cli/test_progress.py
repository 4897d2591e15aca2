import io

from pipelines.cli import progress
from pipelines.cli.console import clock
from pipelines.cli.progress import Progress, progress_line

RECORD = {
    "step": 100,
    "train/loss": 0.43211,
    "train/images_per_second": 640.0,
    "train/epoch": 6.25,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_says_step_epoch_loss_rate_and_eta() -> None:
    line = progress_line(RECORD, steps=400, global_batch=64)
    assert line == "step 100/400  epoch 6.2  loss 0.4321  640 img/s  ETA 0:30"


def test_a_log_gets_plain_lines_at_a_sane_rate(monkeypatch) -> None:
    log = io.StringIO()
    shown = Progress("pretrain", steps=400, global_batch=64, stream=log)
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    for step in range(10, 401, 10):
        shown.show(RECORD | {"step": step})
        now += 1.0
    shown.end()
    lines = log.getvalue().splitlines()
    assert len(lines) == 5  # 40 reports in 40 s: at 0, 10, 20 and 30 s, and the last
    assert lines[-1].startswith("pretrain: step 400/400")
    assert "\x1b" not in log.getvalue()


def test_a_terminal_gets_one_line_rewritten() -> None:
    terminal = Terminal()
    shown = Progress("pretrain", steps=400, global_batch=64, stream=terminal)
    shown.show(RECORD)
    shown.show(RECORD | {"step": 110})
    assert "\n" not in terminal.getvalue()
    shown.note("step 110: val accuracy 0.5")
    assert terminal.getvalue().endswith("\x1b[Kpretrain: step 110: val accuracy 0.5\n")


def test_clock_reads_as_people_write_time() -> None:
    assert [clock(s) for s in (0, 59.6, 125, 3723)] == ["0:00", "1:00", "2:05", "1:02:03"]
