"""Text files: sentences of words and tags between blank lines (CoNLL), or a file for each class."""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from mmlight.data.packing.source import Given, Source, order_classes
from mmlight.data.packing.table_file import open_text, reading
from mmlight.data.shards.paths import natural_key
from mmlight.errors import UserError
from mmlight.text_file import MARK

_LOOKED_AT = 2000
_DOCUMENT = "-DOCSTART-"
# Of CoNLL-U: words that stand for several, and words that are not written.
_NO_WORD = re.compile(r"[0-9]+[-.][0-9]+")


def read_conll(
    path: Path, given: Given, *, words: int | None = None, tags: int | None = None
) -> Source:
    """Return a sample for each sentence: ``{"words": [...], "tags": [...]}`` as json.

    Columns are separated by tabs where there are any, else by white space. Lines ``-DOCSTART-``
    and comments are passed over.

    Args:
        path: the file.
        given: what else is said.
        words: number of the words' column, from 1; by default the first, or the second where the
            first numbers the words.
        tags: number of the tags' column, from 1; by default the last.

    Raises:
        UserError: no such file or column, or lines of different lengths.
    """
    where = f"file {path}"
    with reading(where):
        num_columns, is_numbered, tabs = _look(path, given.encoding)
    word_at = words if words is not None else (2 if is_numbered else 1)
    tag_at = tags if tags is not None else num_columns
    for flag, column in (("--words", word_at), ("--tags", tag_at)):
        if not 1 <= column <= num_columns:
            raise UserError(f"{flag} {column}: {where} has {num_columns} columns, counted from 1")
    if word_at == tag_at:
        raise UserError(
            f"{where}: words and tags are both in column {tag_at}; give --words, --tags"
        )
    result = Source(())

    def samples() -> Iterator[dict[str, Any]]:
        with reading(where), open_text(path, given.encoding) as file:
            found: tuple[list[str], list[str]] = ([], [])
            number = 0
            for line_number, line in enumerate(file, start=1):
                fields = _fields(line, tabs)
                if not fields or fields[0] == _DOCUMENT:
                    if found[0]:
                        yield _sample(number, *found)
                        found, number = ([], []), number + 1
                    continue
                if _is_comment(line, fields, num_columns, inside=bool(found[0])):
                    result.left_out["lines of comments"] += 1
                    continue
                if is_numbered and _NO_WORD.fullmatch(fields[0]):
                    continue
                if len(fields) != num_columns:
                    raise UserError(
                        f"{where}, line {line_number}: {len(fields)} columns, but others have "
                        f"{num_columns}"
                    )
                found[0].append(fields[word_at - 1])
                found[1].append(fields[tag_at - 1].strip())
            if found[0]:
                yield _sample(number, *found)

    result.samples = samples()
    return result


def _look(path: Path, encoding: str | None) -> tuple[int, bool, bool]:
    """Return the number of columns, whether the first numbers the words, whether tabs separate."""
    with open_text(path, encoding) as file:
        lines = [line for line in islice(file, _LOOKED_AT) if line.strip()]
    tabs = sum("\t" in line for line in lines) > len(lines) // 2
    rows = [_fields(line, tabs) for line in lines]
    rows = [row for row in rows if not row[0].startswith("#") and row[0] != _DOCUMENT]
    if not rows:
        raise UserError(f"file {path}: has no lines of words and tags")
    ((num_columns, _),) = Counter(map(len, rows)).most_common(1)
    if num_columns < 2:
        raise UserError(f"file {path}: has one column; words and tags need two")
    numbered = sum(re.fullmatch(r"[0-9]+([-.][0-9]+)?", row[0]) is not None for row in rows)
    return num_columns, num_columns > 2 and numbered == len(rows) and rows[0][0][0] in "01", tabs


def _fields(line: str, tabs: bool) -> list[str]:
    line = line.rstrip("\r\n")
    if not line.strip():
        return []
    # Not split(): a no-break space is part of a word.
    return line.split("\t") if tabs else re.split(r"[ \t]+", line.strip(" \t"))


def _is_comment(line: str, fields: list[str], num_columns: int, *, inside: bool) -> bool:
    """Tell a comment from the word `#`: it stands before a sentence, and not in columns."""
    if inside or not line.startswith("#"):
        return False
    return len(fields) != num_columns or bool(re.match(r"#\s*\S+\s*=\s", line))


def _sample(number: int, words: list[str], tags: list[str]) -> dict[str, Any]:
    return {"__key__": f"{number:09d}", "json": {"words": words, "tags": tags}}


def read_lines(folder: Path, given: Given) -> Source:
    """Return each line of a folder's text files as a sample: its text, and its file as the class.

    A class is named after its file, without the ending (``neg.txt``) or, where the files differ in
    it alone (``rt-polarity.neg``), after that. Folders in the folder are passed over.

    Raises:
        UserError: no such folder, fewer than two files, or one that is no text.
    """
    source = given.open_files(folder)
    paths = sorted(
        (p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")),
        key=lambda path: natural_key(path.name),
    )
    paths = [path for path in paths if not given.exclude(path.name)]
    given.exclude.check()
    if len(paths) < 2:
        raise UserError(f"{folder}: holds {len(paths)} files; a text file for each class is needed")
    for path in paths:
        source.check(path, f"folder {folder}")
    stems = {path.stem for path in paths}
    name_of = {p: p.suffix.removeprefix(".") if len(stems) == 1 else p.stem for p in paths}
    if len(set(name_of.values())) < len(paths):
        raise UserError(f"{folder}: two files have one name: {', '.join(p.name for p in paths)}")
    classes = order_classes(name_of.values(), given.class_names, where=f"folder {folder}")
    result = Source((), classes)

    def samples() -> Iterator[dict[str, Any]]:
        for path in paths:
            label = classes.index(name_of[path])
            with reading(f"file {path}"), open_text(path, given.encoding) as file:
                for number, line in enumerate(file, start=1):
                    text = line.strip("\r\n").removeprefix(MARK)
                    if not text.strip():
                        result.left_out["blank lines"] += 1
                        continue
                    key = f"{name_of[path].replace('.', '_')}/{number:07d}"
                    yield {"__key__": key, "txt": text, "cls": label}

    result.samples = samples()
    return result
