"""Rows about samples, kept in a file per kind with the stages of a run one after another."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmlight.files import json_objects, plain, warn_once, write_text


def write_stage_rows(path: Path, rows: Sequence[dict[str, Any]], *, stage: str) -> None:
    """Write a line of JSON per row with its stage, in place of that stage's last; others stay."""
    kept = [row for row in read_stage_rows(path) if row["stage"] != stage]
    lines = [json.dumps(plain(row)) for row in [*kept, *({"stage": stage, **r} for r in rows)]]
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_stage_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file; none where there is no file."""
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").splitlines()
    rows = [row for row in json_objects(lines) if "stage" in row]
    if len(rows) < len(lines):
        warn_once(f"{path}: {len(lines) - len(rows)} of {len(lines)} lines cannot be read")
    return rows
