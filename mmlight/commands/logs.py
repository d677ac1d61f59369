"""``mmlight logs``: what the jobs of a run have printed, and print."""

import argparse
import sys
import time
from codecs import getincrementaldecoder
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from io import IncrementalNewlineDecoder
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.run.find import find
from mmlight.runs.run.folder import Run
from mmlight.runs.run.logs import log_files, rank_of
from mmlight.runs.run.state import State, jobs_of, state_of
from mmlight.terminal import note, say_text

_POLL_S = 0.5
_CHUNK = 1 << 16
# Questions to SLURM's controller, which all users share.
_ASK_S = 10.0


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight logs``.

    Raises:
        UserError: no such run, or one without a log.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight logs",
        description="Print what a run, or its jobs on SLURM, have printed, over all restarts.",
    )
    parser.add_argument("run", metavar="RUN", help="NAME/ID, ID, a path, or its begin")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the run has ended")
    parser.add_argument("-n", "--lines", type=int, help="only the last N lines")
    parser.add_argument("--rank", type=int, metavar="N", help="only what this rank has printed")
    parser.add_argument("--root", default="runs", help="the folder of all runs (default: runs)")
    options = parser.parse_args(argv)
    run = find(options.run, root=options.root)
    printer = Printer(run.path, rank=options.rank)
    printer.skip(options.lines)
    printer.print_new()
    if options.follow:
        try:
            follow(printer, lambda: _state(run))
        except KeyboardInterrupt:
            return 130
        return 0
    if not printer.offsets:
        state = _state(run)
        if not state.is_active:
            raise UserError(f"{run.label} has printed nothing: it is {state}")
        note(f"{run.label} has printed nothing yet: it is {state}")
    return 0


class Printer:
    """Prints what is new in the logs of a run.

    Args:
        run: the run's folder.
        rank: print the lines of this rank only; None prints all. The only rank of a run has all
            lines.

    Attributes:
        offsets: bytes printed, by file.
    """

    def __init__(self, run: Path, *, rank: int | None = None) -> None:
        self.run = run
        self._rank = rank
        self._begun: dict[Path, str] = defaultdict(str)
        self.offsets: dict[Path, int] = {}
        self._decoders: dict[Path, IncrementalNewlineDecoder] = defaultdict(_decoder)

    def skip(self, count: int | None) -> None:
        """Leave out all but the last lines of what is there; None leaves out none."""
        files = self._files()
        if count is None or not files:
            return
        *old, newest = files
        self.offsets |= {path: path.stat().st_size for path in old}
        with newest.open("rb") as file:
            kept = deque(file, maxlen=count) if count > 0 else ()
            self.offsets[newest] = file.seek(0, 2) - sum(map(len, kept))

    def print_new(self) -> bool:
        """Print what has come since; return whether anything has."""
        anything = False
        for path in self._files():
            with path.open("rb") as file:
                file.seek(self.offsets.setdefault(path, 0))
                while chunk := file.read(_CHUNK):
                    # A character, or a line end of two, may be cut between two chunks.
                    say_text(self._wanted(path, self._decoders[path].decode(chunk)))
                    self.offsets[path] += len(chunk)
                    anything = True
        sys.stdout.flush()
        return anything

    def _wanted(self, path: Path, text: str) -> str:
        """Return the whole lines of the wanted rank; the begin of another waits for its end."""
        run = Run(self.run).submission
        if self._rank is None or (run is not None and run.nodes * run.tasks_per_node == 1):
            return text
        *lines, self._begun[path] = (self._begun[path] + text).split("\n")
        return "".join(f"{line}\n" for line in lines if rank_of(line) == self._rank)

    def _files(self) -> list[Path]:
        return log_files(self.run, Run(self.run).jobs)


def _decoder() -> IncrementalNewlineDecoder:
    return IncrementalNewlineDecoder(getincrementaldecoder("utf-8")("replace"), translate=True)


def follow(
    printer: Printer, state: Callable[[], State], *, poll_s: float = _POLL_S, ask_s: float = _ASK_S
) -> None:
    """Print what comes until the run has ended; look each `poll_s`, ask SLURM each `ask_s`."""
    last = ""
    due = 0.0
    while True:
        if time.monotonic() >= due:
            now = state()
            due = time.monotonic() + ask_s
            if now.word != last:
                last = now.word
                note(str(now))
            if not now.is_active:
                printer.print_new()
                return
        printer.print_new()
        time.sleep(poll_s)


def _state(run: Run) -> State:
    new = Run(run.path)
    return state_of(new, jobs_of([new], missing=lambda why: None))  # the folder tells enough
