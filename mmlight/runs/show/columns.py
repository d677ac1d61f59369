"""Rows of cells under headings, for the terminal: a hundred thousand cells in a quarter second.

Rich takes 1.5 ms for a row of eight cells, which is 15 s for 10,000 runs.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len

from mmlight.terminal import Terminal, one_line

_GAP = "   "
_NARROWEST = 10
_NARROWEST_TABLE, _WIDTH_OF_A_FILE = 80, 1000
# What columns that would wrap are padded to in a file.
_PADDED = 32
_COLORS = {"red": "31", "green": "32", "yellow": "33"}


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        heading: above it.
        right: set to the right, for numbers.
        wraps: takes several lines where the table is too wide; others never do.
        styles: colours of cells, by their text.
    """

    heading: str
    right: bool = False
    wraps: bool = False
    styles: tuple[tuple[str, str], ...] = ()


def fitting_width(terminal: Terminal) -> int:
    """Return how wide a table may be: in a file or a pipe each row is a line.

    Args:
        terminal: where it is printed.
    """
    return max(terminal.width, _NARROWEST_TABLE) if terminal.file.isatty() else _WIDTH_OF_A_FILE


def show(
    columns: Sequence[Column], rows: Sequence[Sequence[object]], terminal: Terminal, *, width: int
) -> None:
    """Print a table; a column without anything in it takes no room.

    Args:
        columns: the columns.
        rows: a cell for each column.
        terminal: where to; it says whether there are colours.
        width: what columns that wrap are narrowed to, as far as the others leave them room.
    """
    texts = [[one_line(cell) for cell in row] for row in rows]
    used = [n for n in range(len(columns)) if any(row[n] for row in texts)]
    heads = [one_line(columns[n].heading) for n in used]
    widths = [
        max(_width(head), *(_width(row[n]) for row in texts))
        for n, head in zip(used, heads, strict=True)
    ]
    shown = [columns[n] for n in used]
    if width >= _WIDTH_OF_A_FILE:  # a run is a line; one long reason does not pad all others
        longest = [_PADDED if column.wraps else width for column in shown]
        widths = [min(pair) for pair in zip(widths, longest, strict=True)]
        shown = [replace(column, wraps=False) for column in shown]
    _narrow(widths, [column.wraps for column in shown], width)
    colors = terminal.color_system is not None
    plain = [Column(column.heading, right=column.right) for column in shown]
    lines = list(_line(plain, heads, widths, colors=False))
    lines.append("─" * (sum(widths) + len(_GAP) * (len(widths) - 1)) + "\n")
    for row in texts:
        lines += _line(shown, [row[n] for n in used], widths, colors=colors)
    terminal.file.write("".join(lines))
    terminal.file.flush()


def _narrow(widths: list[int], wraps: list[bool], width: int) -> None:
    """Take what is too much from the widest of the columns that wrap, a character at a time."""
    too_much = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    for _ in range(too_much):
        n = max((n for n, w in enumerate(wraps) if w), key=lambda n: widths[n], default=None)
        if n is None or widths[n] <= _NARROWEST:
            return
        widths[n] -= 1


def _line(
    columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int], *, colors: bool
) -> Iterator[str]:
    """Yield the lines of a row."""
    parts = [
        _wrapped(cell, width) if column.wraps and _width(cell) > width else [cell]
        for column, cell, width in zip(columns, cells, widths, strict=True)
    ]
    for number in range(max(map(len, parts), default=0)):
        line = []
        for column, lines, width in zip(columns, parts, widths, strict=True):
            cell = lines[number] if number < len(lines) else ""
            blank = " " * (width - _width(cell))
            if colors and (style := dict(column.styles).get(cell)):
                cell = f"\x1b[{_COLORS[style]}m{cell}\x1b[0m"
            line.append(blank + cell if column.right else cell + blank)
        yield _GAP.join(line).rstrip() + "\n"


def _wrapped(cell: str, width: int) -> list[str]:
    return textwrap.wrap(cell, width, break_on_hyphens=False) or [""]


def _width(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)
