"""What is printed, all of it through here: text from files can't command the terminal.

Keys of samples, captions, names of files and errors come from strangers. An escape sequence in one
moves the cursor, hides lines or sets the clipboard; a newline forges a line of ours.
"""

import re
import sys
from io import TextIOWrapper
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

# Control characters, ends of lines, what turns the direction of writing, and lone surrogates (a
# file name that is not UTF-8), which no stream can encode.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def one_line(text: object) -> str:
    r"""Return a text as one line that only shows: an escape character becomes ``\x1b``.

    Args:
        text: anything; what `str` makes of it.
    """
    return _CONTROLS.sub(lambda m: m[0].encode("unicode_escape").decode("ascii"), str(text))


def replace_unknown() -> None:
    """Have what the terminal's encoding lacks printed as a question mark: no reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        _replace_unknown(stream)


def _replace_unknown(stream: TextIO) -> None:
    if isinstance(stream, TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
        stream.reconfigure(errors="replace")


def say(*lines: object, file: TextIO | None = None) -> None:
    """Print each argument as a line.

    Args:
        lines: one for each line; a newline in one is shown, not obeyed.
        file: where to; standard output by default.
    """
    out = file or sys.stdout
    _replace_unknown(out)
    out.write("".join(f"{one_line(line)}\n" for line in lines))
    out.flush()


def say_text(text: str) -> None:
    """Print a text of several lines, such as a script or what a job has printed.

    Args:
        text: the text; its newlines and tabs are obeyed, and nothing else.
    """
    sys.stdout.write(re.sub(r"[^\n\t]+", lambda part: one_line(part[0]), text))


def note(line: object) -> None:
    """Print a line of ours, ``mmlight: ...``, to standard error."""
    say(f"mmlight: {line}", file=sys.stderr)


def agrees(question: str) -> bool:
    """Ask whoever sits at the terminal; anything but a yes is a no."""
    sys.stdout.write(f"{one_line(question)} [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


class Terminal(Console):
    """Rich's console for tables and bars, in which every text is a line that only shows.

    There is no markup: ``[red]`` and ``[/]`` in a name are a part of it.

    Args:
        settings: as `rich.console.Console` takes them.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **settings})

    def render_str(self, text: str, **settings: Any) -> Text:
        """Turn a string into what is shown: cells, headings and printed lines all pass here."""
        return super().render_str(one_line(text), **settings)
