"""Rows about samples, kept in a file per kind with the stages of a run one after another."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmlight.runs.files import plain, write_text


def write_stage_rows(path: Path, rows: Sequence[dict[str, Any]], *, stage: str) -> None:
    """Write a line of JSON per row, in the place of the stage's last ones; others stay.

    Args:
        path: the file.
        rows: plain values by name.
        stage: `val` or `test`; becomes a value of each row.
    """
    kept = [row for row in read_stage_rows(path) if row["stage"] != stage]
    lines = [json.dumps(plain(row)) for row in [*kept, *({"stage": stage, **r} for r in rows)]]
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_stage_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file; none where there is no file.

    Args:
        path: the file.
    """
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]
