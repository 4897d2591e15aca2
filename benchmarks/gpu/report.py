"""Lines `ok|FAIL|fig NAME: FIGURES`, and the same as JSON."""

import json
import traceback
from collections.abc import Callable
from pathlib import Path


class Report:
    """Checks and figures of a run."""

    def __init__(self, path: Path | None) -> None:
        """`path` receives the JSON after each part; None keeps it on the terminal alone."""
        self._path = path
        self.lines: dict[str, dict[str, str]] = {}

    def check(self, name: str, good: bool, text: str) -> None:
        """Print whether something that must hold does hold."""
        self._line("ok" if good else "FAIL", name, text)

    def figure(self, name: str, text: str) -> None:
        """Print a measurement."""
        self._line("fig", name, text)

    def run(self, part: Callable[[], None], name: str) -> None:
        """Run a part; an exception is a failed check, and the next part runs all the same."""
        try:
            part()
        except Exception as error:
            traceback.print_exc()
            self.check(name, False, f"{type(error).__name__}: {error}"[:300])
        if self._path is not None:
            self._path.write_text(json.dumps(self.lines, indent=1) + "\n")

    def failed(self) -> int:
        """Return how many checks failed."""
        return sum(line["kind"] == "FAIL" for line in self.lines.values())

    def end(self) -> int:
        """Print the totals; return the exit status."""
        passed = sum(line["kind"] == "ok" for line in self.lines.values())
        print(f"{passed} passed, {self.failed()} failed")
        return int(self.failed() > 0)

    def _line(self, kind: str, name: str, text: str) -> None:
        self.lines[name] = {"kind": kind, "text": text}
        print(f"{kind:<4} {name}: {text}", flush=True)
