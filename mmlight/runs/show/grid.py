"""Rows of cells under headings, which become a table in the terminal, CSV or Markdown.

`mmlight.runs.show.page` makes HTML of them. A hundred thousand cells take a quarter second; rich
takes 1.5 ms for a row of eight, which is 15 s for 10,000 runs.
"""

import csv
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import ConsoleOptions
from rich.segment import Segment

from mmlight.terminal import Terminal, one_line, say_text

FORMATS = ("table", "csv", "markdown", "html")
_GAP = "   "
_NARROWEST = 10
_NARROWEST_TABLE, _WIDTH_OF_A_FILE = 80, 1000
# What columns that wrap are padded to in a file.
_PADDED = 32
_COLORS = {"red": "31", "green": "32", "yellow": "33"}


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: above it.
        unit: of its cells, which stands behind the name and not in each of them.
        align: numbers are set to the right.
        wraps: takes several lines where the table is too wide; others never do.
        styles: colours of cells, by their text.
    """

    name: str
    unit: str = ""
    align: Literal["left", "right"] = "left"
    wraps: bool = False
    styles: Mapping[str, str] = field(default_factory=dict)

    @property
    def heading(self) -> str:
        """What stands above it."""
        return f"{self.name} {self.unit}".strip()


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        columns: its columns.
        rows: a cell for each column; None is empty.
        repeat: how many of the first columns begin each part of a table that is too wide.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    repeat: int = 1

    @classmethod
    def of_records(cls, records: Sequence[Mapping[str, Any]]) -> "Grid":
        """Return a row for each mapping, and a column for each key as they first appear."""
        names = list(dict.fromkeys(name for record in records for name in record))
        rows = tuple(tuple(record.get(name) for name in names) for record in records)
        return cls(tuple(map(Column, names)), rows)

    @property
    def headings(self) -> list[str]:
        """What stands above the columns."""
        return [column.heading for column in self.columns]

    @property
    def texts(self) -> list[list[str]]:
        """The cells, each as a line."""
        return [["" if cell is None else one_line(cell) for cell in row] for row in self.rows]

    def csv(self) -> str:
        """Return it as CSV: numbers with all of their digits."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(map(one_line, self.headings))
        writer.writerows(
            [one_line(cell) if isinstance(cell, str) else cell for cell in row] for row in self.rows
        )
        return text.getvalue()

    def markdown(self) -> str:
        """Return it as a table of Markdown."""

        def line(cells: Sequence[str]) -> str:
            return f"| {' | '.join(one_line(c).replace('|', chr(92) + '|') for c in cells)} |"

        rule = ["--:" if column.align == "right" else ":--" for column in self.columns]
        return "\n".join([line(self.headings), line(rule), *map(line, self.texts)]) + "\n"

    def text(self, *, width: int, colors: bool = False) -> str:
        """Return it for the terminal; a column without anything in it takes no room.

        Args:
            width: what columns that wrap are narrowed to, as far as the others leave them room.
            colors: whether cells have their colours.
        """
        texts = self.texts
        used = [n for n in range(len(self.columns)) if any(row[n] for row in texts)]
        shown = [self.columns[n] for n in used]
        heads = [one_line(column.heading) for column in shown]
        widths = [
            max(_width(head), *(_width(row[n]) for row in texts))
            for n, head in zip(used, heads, strict=True)
        ]
        if width >= _WIDTH_OF_A_FILE:  # a row is a line; one long cell does not pad all others
            longest = [_PADDED if column.wraps else width for column in shown]
            widths = [min(pair) for pair in zip(widths, longest, strict=True)]
            shown = [replace(column, wraps=False) for column in shown]
        _narrow(widths, [column.wraps for column in shown], width)
        plain = [replace(column, styles={}) for column in shown]
        lines = list(_line(plain, heads, widths)) if any(heads) else []
        if lines:
            lines.append("─" * (sum(widths) + len(_GAP) * (len(widths) - 1)) + "\n")
        for row in texts:
            lines += _line(shown if colors else plain, [row[n] for n in used], widths)
        return "".join(lines)

    def parts(self, width: int) -> list["Grid"]:
        """Return tables to be shown under one another, as few as are no wider than the terminal."""
        cells = [list(map(one_line, self.headings)), *self.texts]
        widths = [max(_width(row[n]) for row in cells) + len(_GAP) for n in range(len(cells[0]))]
        first = list(range(self.repeat))
        parts, part = [], list(first)
        for column in range(self.repeat, len(widths)):
            if len(part) > self.repeat and sum(widths[n] for n in [*part, column]) > width:
                parts.append(part)
                part = list(first)
            part.append(column)
        return [self._only(numbers) for numbers in (*parts, part)]

    def print(self, form: str = "table", *, title: str = "") -> None:
        """Print it, at once however long it is: in a file or a pipe each row is a line.

        Args:
            form: one of `FORMATS`.
            title: of the page, where it is one.
        """
        if form == "table":
            terminal = Terminal()
            wide = max(terminal.width, _NARROWEST_TABLE)
            width = wide if terminal.file.isatty() else _WIDTH_OF_A_FILE
            terminal.file.write(self.text(width=width, colors=terminal.color_system is not None))
            terminal.file.flush()
        elif form == "html":
            from mmlight.runs.show.page import render  # takes 50 ms to import

            say_text(render("table.html", title=title, grid=self))
        else:
            say_text(self.csv() if form == "csv" else self.markdown())

    def __rich_console__(self, console: Any, options: ConsoleOptions) -> Iterator[Segment]:
        """Show it among other things, in parts where it is too wide."""
        for part in self.parts(options.max_width):
            yield Segment(f"\n{part.text(width=options.max_width)}")

    def _only(self, numbers: Sequence[int]) -> "Grid":
        rows = tuple(tuple(row[n] for n in numbers) for row in self.rows)
        return Grid(tuple(self.columns[n] for n in numbers), rows, self.repeat)


def _narrow(widths: list[int], wraps: list[bool], width: int) -> None:
    """Take what is too much from the widest of the columns that wrap, a character at a time."""
    too_much = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    for _ in range(too_much):
        n = max((n for n, w in enumerate(wraps) if w), key=lambda n: widths[n], default=None)
        if n is None or widths[n] <= _NARROWEST:
            return
        widths[n] -= 1


def _line(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
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
            if style := column.styles.get(cell):
                cell = f"\x1b[{_COLORS[style]}m{cell}\x1b[0m"
            line.append(blank + cell if column.align == "right" else cell + blank)
        yield _GAP.join(line).rstrip() + "\n"


def _wrapped(cell: str, width: int) -> list[str]:
    return textwrap.wrap(cell, width, break_on_hyphens=False) or [""]


def _width(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)
