"""What a local run prints, kept in its folder: lines without bars and colours, up to a size."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from mmlight.terminal import one_line

LOG, OLDER = "console.log", "console-older.log"
_MOST_BYTES = 1 << 20
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Of rich's bar.
_BAR = "━"


@contextmanager
def kept_console(run: Path) -> Iterator[None]:
    """Keep what this process prints from now on in a run's folder, beside printing it.

    Of more than 2 MiB the first lines are left out. A disk that is full does not end the run.

    Args:
        run: the run's folder.
    """
    log = _Log(run)
    before = sys.stdout, sys.stderr
    log.line(f"--- {datetime.now():%Y-%m-%d %H:%M:%S}")
    out, err = _Both(sys.stdout, log), _Both(sys.stderr, log)
    sys.stdout, sys.stderr = out, err
    try:
        yield
    except BaseException as error:
        log.line(f"{type(error).__name__}: {error}")
        raise
    finally:
        # A library may have put something of its own there, around ours.
        sys.stdout = before[0] if sys.stdout is out else sys.stdout
        sys.stderr = before[1] if sys.stderr is err else sys.stderr


class _Log:
    """The file; each line is on its way to the disk when `line` returns."""

    def __init__(self, run: Path) -> None:
        self._path = run / LOG

    def line(self, text: str) -> None:
        shown = _ESCAPES.sub("", text).rpartition("\r")[2].rstrip()
        # Not into a folder that was removed, nor a bar.
        if not shown or _BAR in shown or not self._path.parent.exists():
            return
        with suppress(OSError):
            if self._path.exists() and self._path.stat().st_size > _MOST_BYTES:
                self._path.replace(self._path.with_name(OLDER))
            with self._path.open("a", encoding="utf-8", errors="replace") as file:
                file.write(f"{one_line(shown)}\n")


class _Both:
    """A stream that is written to as before, and whose whole lines are kept."""

    def __init__(self, stream: TextIO, log: _Log) -> None:
        self._stream, self._log = stream, log
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        self._begun = self._begun[-_MOST_BYTES:]
        for line in lines:
            self._log.line(line)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
