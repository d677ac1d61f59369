"""Rows of CSV, TSV, JSON-lines and parquet files, one dict each."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmlight.data.json_text import parse_json
from mmlight.errors import UserError, nearest


def read_rows(table: Path, *, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table.

    Args:
        table: a file ending in .csv, .tsv, .jsonl or .parquet.
        columns: those that are needed. A JSON row may lack some: they are None.

    Raises:
        UserError: a file that can't be read, or that lacks a column.
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
    try:
        yield from reader(table, columns)
    except OSError as error:
        raise UserError(f"table {table} can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"table {table} is not UTF-8: {error}") from error
    except csv.Error as error:  # a field of more than 128 KiB, a quote that never closes
        raise UserError(f"table {table} can't be read: {error}") from error


def _check(table: Path, columns: Sequence[str], known: Sequence[str]) -> None:
    for column in columns:
        if column not in known:
            names = ", ".join(known)
            raise UserError(
                f"table {table} has no column '{column}'{nearest(column, known)}: {names}"
            )


def _read_csv(table: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    delimiter = "\t" if table.suffix.lower() == ".tsv" else ","
    with open(table, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        _check(table, columns, reader.fieldnames or ())
        for row in reader:
            if None in row or None in row.values():
                raise UserError(
                    f"table {table}, line {reader.line_num}: not as many fields as names"
                )
            yield row


def _read_json(table: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    with open(table, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError as error:
                raise UserError(f"table {table}, line {number}: {error}") from error
            if not isinstance(row, dict):
                raise UserError(f"table {table}, line {number}: not an object {{...}}")
            if number == 1:
                _check(table, columns, list(row))
            yield {column: row.get(column) for column in columns}


def _read_parquet(table: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(table) as file:
            _check(table, columns, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=256, columns=list(dict.fromkeys(columns))):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise UserError(f"table {table} is no parquet file: {error}") from error
