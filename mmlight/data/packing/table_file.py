"""Rows of CSV, TSV, JSON-lines and parquet files, one dict each."""

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from mmlight.errors import UserError, nearest
from mmlight.text_file import encoding_of, parse_json

# Excel writes semicolons where the comma is that of decimals, and may name the separator first.
_DELIMITERS = (",", ";", "\t", "|")
_LOOKED_AT = 1000
_NAMED_DELIMITER = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
# A field that a writer quoted: the quotation marks in it come in pairs, one at least.
_QUOTED = re.compile(r'"((?:[^"]*"")+[^"]*)"')


class Row(NamedTuple):
    """A row of a table: what names it (``table x.csv, line 7``), and its values by column."""

    where: str
    values: dict[str, Any]


def read_rows(
    table: Path,
    *,
    columns: Sequence[str],
    encoding: str | None = None,
    names: Sequence[str] | None = None,
) -> Iterator[Row]:
    """Yield the rows of a table.

    Args:
        table: a file ending in .csv, .tsv, .jsonl or .parquet. In a .csv fields may be separated
            by commas, semicolons, tabs or bars; in a .tsv quotation marks are part of the text.
        columns: those that are needed. A JSON row may lack some: they are None, as a number that
            is none (NaN) is, for which pandas writes it.
        encoding: of a text file; UTF-8 by default, or what a byte-order mark says.
        names: of the columns of a .csv or .tsv whose first line is a row.

    Raises:
        UserError: a file that can't be read, that lacks a column, or has it twice.
    """
    readers = {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".jsonl": _read_json,
        ".parquet": _read_parquet,
    }
    reader = readers.get(table.suffix.lower())
    if reader is None:
        raise UserError(f"table {table}: its name must end in {', '.join(readers)}")
    with reading(f"table {table}"):
        for row in reader(table, columns, encoding, names):
            lacking = [name for name, value in row.values.items() if _is_nan(value)]
            yield Row(row.where, {**row.values, **dict.fromkeys(lacking)}) if lacking else row


def column_names(table: Path, *, encoding: str | None = None) -> list[str]:
    """Return the names of a table's columns (see `read_rows`); of JSON lines, of the first 1,000.

    Raises:
        UserError: a file that can't be read.
    """
    suffix = table.suffix.lower()
    with reading(f"table {table}"):
        if suffix == ".parquet":
            import pyarrow.parquet as pq

            return list(pq.read_schema(table).names)
        if suffix == ".jsonl":
            return _json_names(table, encoding)
        with open_text(table, encoding) as file:
            return _read_head(file, is_tsv=suffix == ".tsv", columns=()).names


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Say in one line what keeps a file, such as ``table x.csv``, from being read."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what} can't be read: {error.strerror or error}") from error
    except UnicodeError as error:
        of = getattr(error, "encoding", "utf-8").upper()
        raise UserError(
            f"{what}: not {of} text ({error}); name its encoding: --encoding latin-1 or cp1252"
        ) from error
    except ValueError as error:
        # of pyarrow, whose errors are such
        if isinstance(error, UserError) or not what.lower().endswith(".parquet"):
            raise
        raise UserError(f"{what} is no parquet file: {error}") from error


def open_text(path: Path, encoding: str | None) -> TextIO:
    """Open a text in an encoding, or in that which its first bytes tell.

    Raises:
        UserError: no such encoding.
    """
    if encoding is None:
        with path.open("rb") as file:
            encoding = encoding_of(file.read(4))
    try:
        return path.open(encoding=encoding, newline="")
    except LookupError as error:
        raise UserError(f"--encoding {encoding}: there is none; try utf-8 or latin-1") from error


def is_empty(value: Any) -> bool:
    """Return whether a cell holds nothing: null, or white space alone."""
    return value is None or (isinstance(value, str) and not value.strip())


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


def _check(table: Path, columns: Sequence[str], known: Sequence[str]) -> None:
    for column in columns:
        if column not in known:
            names = ", ".join(known)
            raise UserError(
                f"table {table} has no column '{column}'{nearest(column, known)}: {names}"
            )
        if list(known).count(column) > 1:
            raise UserError(f"table {table} has two columns '{column}'; rename one")


def _read_csv(
    table: Path, columns: Sequence[str], encoding: str | None, names: Sequence[str] | None
) -> Iterator[Row]:
    with open_text(table, encoding) as file:
        head = _read_head(file, is_tsv=table.suffix.lower() == ".tsv", columns=columns)
        num_lines = head.num_lines
        if names is None:
            names = head.names
        else:
            file.seek(0)
            num_lines = 0
        _check(table, columns, names)
        # Captions that begin with a quotation mark are common where tabs separate; only where all
        # names are quoted is every field.
        quotes = head.delimiter != "\t" or head.is_quoted
        reader = csv.reader(
            file,
            delimiter=head.delimiter,
            quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
            strict=True,
        )
        while True:
            line = num_lines + 1 + reader.line_num
            where = f"table {table}, line {line}"
            try:
                fields = next(reader, None)
            except csv.Error as error:  # a field of more than 128 KiB, a quote that never closes
                is_size = "limit" in str(error) or "NUL" in str(error)
                hint = "" if is_size else "; a quotation mark within a text is written twice"
                raise UserError(f"{where} can't be read: {error}{hint}") from error
            if fields is None:
                return
            if not fields:
                continue
            if any(fields[len(names) :]) or len(fields) < len(names):
                raise UserError(f"{where}: {len(fields)} fields, but {len(names)} names of columns")
            if not quotes:
                fields = [_unquoted(field) for field in fields]
            yield Row(where, dict(zip(names, fields, strict=False)))


class _Head(NamedTuple):
    delimiter: str
    names: list[str]
    is_quoted: bool
    num_lines: int


def _read_head(file: TextIO, *, is_tsv: bool, columns: Sequence[str]) -> _Head:
    line, num_lines = file.readline(), 1
    named = _NAMED_DELIMITER.fullmatch(line)
    if named:
        line, num_lines = file.readline(), 2
    delimiters = (named[1],) if named else ("\t",) if is_tsv else _DELIMITERS
    delimiter = max(delimiters, key=lambda d: _fits(_fields(line, d), columns))
    return _Head(delimiter, _fields(line, delimiter), line.startswith('"'), num_lines)


def _fields(head: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([head], delimiter=delimiter), [])]
    except csv.Error:
        return []


def _fits(names: Sequence[str], columns: Sequence[str]) -> tuple[int, int]:
    return sum(column in names for column in set(columns)), len(names)


def _unquoted(field: str) -> str:
    match = _QUOTED.fullmatch(field)
    return match[1].replace('""', '"') if match else field


def _read_json(
    table: Path, columns: Sequence[str], encoding: str | None, names: Sequence[str] | None
) -> Iterator[Row]:
    if there := _json_names(table, encoding):
        _check(table, columns, there)
    with open_text(table, encoding) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"table {table}, line {number}"
            try:
                row = parse_json(line)
            except ValueError as error:
                raise UserError(f"{where}: {error}") from error
            if not isinstance(row, dict):
                raise UserError(f"{where}: not an object {{...}}")
            yield Row(where, {column: row.get(column) for column in columns})


def _json_names(table: Path, encoding: str | None) -> list[str]:
    """Return the keys of the first rows; what is wrong in them is said where they are read."""
    names: dict[str, None] = {}
    with open_text(table, encoding) as file:
        for line in islice(file, _LOOKED_AT):
            with suppress(ValueError):
                row = parse_json(line)
                names |= dict.fromkeys(row if isinstance(row, dict) else ())
    return list(names)


def _read_parquet(
    table: Path, columns: Sequence[str], encoding: str | None, names: Sequence[str] | None
) -> Iterator[Row]:
    import pyarrow.parquet as pq

    number = 0
    with pq.ParquetFile(table) as file:
        _check(table, columns, file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=256, columns=list(dict.fromkeys(columns))):
            for values in batch.to_pylist():
                number += 1
                yield Row(f"table {table}, row {number}", values)
