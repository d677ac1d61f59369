"""Looks into a table: which column holds files, which captions, which labels."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmlight.data.decode import probe
from mmlight.data.packing.table_file import column_names, is_empty, read_rows
from mmlight.errors import UserError
from mmlight.modality import Modality

# As `mmlight.batch` has them, which needs torch.
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
_LABELS = ("label", "class", "category", "target", "cls", "klasse", "kind", "species", "y")
_TEXTS = ("caption", "text", "sentence", "description", "title", "alt", "question", "review")
_LOOKED_AT = 1000
_MOST_LABELS = 1000


@dataclass
class Columns:
    """What the columns of a table hold.

    Attributes:
        table: the file.
        num_rows: its rows.
        files: columns of paths, by what the files hold.
        text: the column of captions, if there is one.
        label: the column of labels, if there is one.
        labels: the labels of the rows that were looked at.
        unused: other columns.
        extensions: of the files.
        examples: a file of each kind.
        also_from: folders that paths lead into, beside the table's own.
    """

    table: Path
    num_rows: int = 0
    files: dict[Modality, str] = field(default_factory=dict)
    text: str | None = None
    label: str | None = None
    labels: Counter[str] = field(default_factory=Counter)
    unused: list[str] = field(default_factory=list)
    extensions: Counter[str] = field(default_factory=Counter)
    examples: dict[Modality, Path] = field(default_factory=dict)
    also_from: list[Path] = field(default_factory=list)

    def arguments(self) -> list[str]:
        """Return how ``mmlight shards pack`` takes them."""
        words = [word for column in self.files.values() for word in ("--file", column)]
        words += ["--member", f"txt={self.text}"] if self.text else []
        words += ["--label", self.label] if self.label else []
        words += [word for folder in self.also_from for word in ("--also-from", str(folder))]
        return [*words, "--shuffle-seed", "0"]

    def lines(self) -> Iterator[str]:
        """Yield lines on what was found."""
        for kind, column in self.files.items():
            yield f"column {column}: paths ({kind})"
        if self.text:
            yield f"column {self.text}: text"
        if self.label:
            shown = ", ".join(f"{name} {n:,}" for name, n in self.labels.most_common(6))
            more = f" and {len(self.labels) - 6} more" if len(self.labels) > 6 else ""
            yield f"column {self.label}: {len(self.labels)} labels: {shown}{more}"
        if self.unused:
            yield f"not used: {', '.join(self.unused)}"


def look_into(table: Path, *, encoding: str | None = None) -> Columns:
    """Look into a table of one of the kinds in `TABLES`, in this encoding if it is text.

    Raises:
        UserError: it cannot be read, or names files that are not there.
    """
    names = column_names(table, encoding=encoding)
    rows: list[dict[str, Any]] = []
    found = Columns(table)
    for row in read_rows(table, columns=names, encoding=encoding):
        if all(map(is_empty, row.values.values())):  # which pack leaves out
            continue
        if found.num_rows < _LOOKED_AT:
            rows.append(row.values)
        found.num_rows += 1
    if not rows:
        raise UserError(f"table {table}: has no row")
    values = {name: [str(r[name]) for r in rows if _is_plain(r[name])] for name in names}
    open_ones = [name for name in names if len(values[name]) > len(rows) // 2]
    for name in list(open_ones):
        kind = _kind_of_files(values[name])
        if kind is not None and kind not in found.files:
            found.files[kind] = name
            open_ones.remove(name)
            _look_at_files(found, kind, name, values[name])
    found.label = _label(open_ones, values, len(rows))
    if found.label:
        open_ones.remove(found.label)
        found.labels = Counter(values[found.label])
    found.text = _text(open_ones, values)
    used = {*found.files.values(), found.label, found.text}
    found.unused = [name for name in names if name not in used]
    return found


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int) and value != ""


def _kind_of_files(values: Sequence[str]) -> Modality | None:
    kinds = Counter(probe.kind(Path(value).suffix.lower().lstrip(".")) for value in values)
    if kinds["image"] > 0.8 * len(values):
        return "image"
    return "audio" if kinds["audio"] > 0.8 * len(values) else None


def _look_at_files(found: Columns, kind: Modality, column: str, values: Sequence[str]) -> None:
    folder = found.table.parent
    real = os.path.realpath(folder)
    for value in values:
        path = folder / value
        if not path.is_file():
            raise UserError(
                f"table {found.table}, column {column}: there is no file {path}; paths are "
                "relative to the table's folder"
            )
        found.extensions[path.suffix.lower().removeprefix(".")] += 1
        found.examples.setdefault(kind, path)
        own = os.path.dirname(os.path.realpath(path))
        if os.path.commonpath((own, real)) != real and Path(own) not in found.also_from:
            found.also_from.append(Path(own))


def _label(names: Sequence[str], values: Mapping[str, Sequence[str]], num_rows: int) -> str | None:
    for wanted in _LABELS:
        for name in names:
            if name.lower() == wanted and 2 <= len(set(values[name])) <= _MOST_LABELS:
                return name

    # Few values that come again and again, and short ones: a name nobody foresaw.
    def fits(name: str) -> bool:
        different = set(values[name])
        return 2 <= len(different) <= max(2, num_rows // 4) and max(map(len, different)) <= 40

    fitting = [n for n in names if n.lower() not in (*_TEXTS, "id", "split", "fold") and fits(n)]
    return fitting[0] if len(fitting) == 1 else None


def _text(names: Sequence[str], values: Mapping[str, Sequence[str]]) -> str | None:
    for wanted in _TEXTS:
        for name in names:
            if name.lower() == wanted:
                return name
    sentences = [n for n in names if sum(" " in v for v in values[n]) > len(values[n]) // 2]
    return max(sentences, key=lambda n: len(set(values[n])), default=None)
