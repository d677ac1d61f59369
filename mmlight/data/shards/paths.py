"""From what a user writes (globs, braces, folders, lists) to the shards meant, each once."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmlight.errors import UserError, nearest
from mmlight.text_file import MIB, read_text_file, split_lines

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|pipe:", re.IGNORECASE)
_SUFFIX = ".tar"
_MAX_NAMED = 3
_LARGEST_LIST = 256 * MIB


def expand(patterns: str | Sequence[str], *, base: Path | None = None) -> list[Path]:
    """Return the shards that patterns name, in the order of the patterns.

    A pattern is a path, with globs (``train/*.tar``) and braces (``{000..009}.tar``) if you like;
    a folder, for all ``*.tar`` in it; or a ``.txt`` file with one pattern per line (``#`` begins
    a comment, paths are relative to the file). Globs and folders give shards in natural order:
    ``2.tar`` before ``10.tar``.

    Args:
        patterns: one or several.
        base: the folder that relative paths start from, by default the current one.

    Raises:
        UserError: a pattern that matches nothing or is no local path, or a shard named twice.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not patterns:
        raise UserError("no shards given; name a folder, a glob or a list of .tar files")
    found: dict[str, tuple[Path, str]] = {}
    folders: dict[str, str] = {}
    for pattern, path in _expand_all(patterns, base or Path()):
        real = _real(path, folders)
        if real in found:
            first = found[real][1]
            how = f"by '{first}' and '{pattern}'" if first != pattern else f"by '{pattern}'"
            raise UserError(f"shard {path} is named twice, {how}; each shard may come once")
        found[real] = Path(os.path.abspath(path)), pattern
    return [path for path, _ in found.values()]


def _real(path: Path, folders: dict[str, str]) -> str:
    """Return a path without links; folders are resolved once, for there may be 20,000 shards."""
    if os.path.islink(path):
        return os.path.realpath(path)
    folder, name = os.path.split(path)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    return os.path.join(folders[folder], name)


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts numbers within text by their value."""
    parts = re.split(r"([0-9]+)", text)
    # isdigit would also be true of a superscript two, of which int() knows nothing
    return [(1, int(part), part) if part.isdecimal() else (0, 0, part) for part in parts]


def _expand_all(patterns: Sequence[str], base: Path) -> Iterator[tuple[str, Path]]:
    for pattern in patterns:
        pattern = os.fspath(pattern).strip()
        # `pipe:` would run a shell, and members be unpickled (webdataset issue 490).
        if _SCHEME.match(pattern) or "::" in pattern:
            raise UserError(
                f"shards '{pattern}': only local shards are supported; give the path of a file, "
                "a glob or a folder"
            )
        if pattern.lower().endswith(".txt"):
            list_file = _resolve(pattern, base)
            for path in _expand_list(list_file):
                yield pattern, path
            continue
        for part in _split_braces(pattern):
            for path in _expand_one(part, base):
                yield pattern, path


def _expand_list(list_file: Path) -> Iterator[Path]:
    what = f"list of shards {list_file} can't be read"
    lines = split_lines(read_text_file(list_file, what=what, largest=_LARGEST_LIST))
    lines = [line.strip() for line in lines]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"list of shards {list_file} is empty; write one pattern per line")
    if nested := [line for line in lines if line.lower().endswith(".txt")]:
        raise UserError(f"list of shards {list_file} names another list '{nested[0]}'; join them")
    for _, path in _expand_all(lines, list_file.parent):
        yield path


def _split_braces(pattern: str) -> list[str]:
    from braceexpand import braceexpand

    if os.path.exists(os.path.expanduser(pattern)):
        return [pattern]
    try:
        return list(braceexpand(pattern))
    except ValueError:
        raise UserError(f"shards '{pattern}': braces that don't match up") from None


def _resolve(pattern: str, base: Path) -> Path:
    return base / os.path.expanduser(pattern)


def _expand_one(pattern: str, base: Path) -> list[Path]:
    path = _resolve(pattern, base)
    if path.is_file():
        return [path]
    if path.is_dir():
        names = [name for name in os.listdir(path) if _is_shard(name)]
        if not names:
            raise UserError(f"folder '{pattern}' holds no {_SUFFIX} file{_contents(path)}")
        return [path / name for name in sorted(names, key=natural_key)]
    matches = glob.glob(str(path), recursive=True)
    shards = [
        name for name in matches if _is_shard(os.path.basename(name)) and os.path.isfile(name)
    ]
    if not shards and matches:
        name = os.path.basename(min(matches))
        hint = f"; for the shards in folders write '{pattern}/*{_SUFFIX}'"
        hint = hint if any(map(os.path.isdir, matches)) else ""
        raise UserError(f"no {_SUFFIX} file matches '{pattern}', only e.g. '{name}'{hint}")
    if not shards:
        raise UserError(f"no shard matches '{pattern}'{_explain(path)}")
    return [Path(name) for name in sorted(shards, key=natural_key)]


def _is_shard(name: str) -> bool:
    return name.endswith(_SUFFIX) and not name.startswith(".")


def _explain(path: Path) -> str:
    """Say what is there instead of a path that isn't."""
    missing, folder = path.name, path.parent
    while not folder.is_dir() and folder != folder.parent:
        missing, folder = folder.name, folder.parent
    if folder != path.parent:
        names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
        return f": no folder '{missing}' in {folder.absolute()}{nearest(missing, names)}"
    names = [name for name in os.listdir(folder) if _is_shard(name)]
    if not names:
        return f": {folder.absolute()} holds no {_SUFFIX} file{_contents(folder)}"
    names.sort(key=natural_key)
    span = f"'{names[0]}'" + (f" to '{names[-1]}'" if len(names) > 1 else "")
    hint = nearest(missing, names)
    return f": {folder.absolute()} holds {len(names)} {_SUFFIX} file(s), {span}{hint}"


def _contents(folder: Path) -> str:
    names = sorted(os.listdir(folder), key=natural_key)
    if not names:
        return "; it is empty"
    named = ", ".join(f"'{name}'" for name in names[:_MAX_NAMED])
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"; it has {named}{more}"
