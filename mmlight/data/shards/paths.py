"""From what a user writes (globs, braces, folders, lists, URLs) to the shards meant, each once."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from mmlight.class_names import CLASS_NAMES
from mmlight.data.shards import remote
from mmlight.data.shards import url as urls
from mmlight.data.shards.cache import ShardCache
from mmlight.data.shards.storage import Shard
from mmlight.errors import UserError, nearest
from mmlight.text_file import MIB, read_text_file, split_lines

_SUFFIX = ".tar"
# Of what is read in order only.
_COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.zst")
_MAX_NAMED = 3
_LARGEST_LIST = 256 * MIB


def expand(
    patterns: str | Sequence[str], *, base: Path | None = None, cache: ShardCache | None = None
) -> list[Shard]:
    """Return the shards that patterns name, in the order of the patterns.

    A pattern is a path, with globs (``train/*.tar``) and braces (``{000..009}.tar``) if you like;
    a folder, for all ``*.tar`` in it; or a ``.txt`` file with one pattern per line (``#`` begins
    a comment, paths are relative to the file), but for ``classnames.txt``, which a shell finds
    beside folders and which is passed over. Globs and folders give shards in natural order:
    ``2.tar`` before ``10.tar``. A URL (http, https, s3, gs, hf) may have braces, too; globs in its
    last part, and folders, where the store can be listed, which a web server can't.

    Args:
        patterns: one or several.
        base: the folder that relative paths start from, by default the current one.
        cache: where copies of remote shards lie.

    Raises:
        UserError: a pattern that matches nothing, a URL that is not read, or a shard named twice.
    """
    found = _distinct(patterns, base or Path(), _Sought(cache or ShardCache()))
    far = [path for path in found if isinstance(path, str)]
    known = dict(zip(far, remote.find_all(far, cache=cache or ShardCache()), strict=True))
    return [known[path] if isinstance(path, str) else path for path in found]


def expand_streams(
    patterns: str | Sequence[str], *, cache: ShardCache | None = None
) -> list[Path | str]:
    """Return the local paths and URLs of shards that are read in order; see `expand`.

    They may be compressed, and named pipes; whether a URL is there shows when it is read.

    Raises:
        UserError: a pattern that matches nothing, a URL that is not read, or a shard named twice.
    """
    suffixes = (_SUFFIX, *_COMPRESSED_SUFFIXES)
    return _distinct(patterns, Path(), _Sought(cache or ShardCache(), suffixes, pipes=True))


@dataclass(frozen=True)
class _Sought:
    """What is a shard, by the ending of its name, and where listings of stores are kept."""

    cache: ShardCache
    suffixes: tuple[str, ...] = (_SUFFIX,)
    pipes: bool = False

    def __str__(self) -> str:
        return " or ".join(self.suffixes)

    def fits(self, name: str) -> bool:
        return name.endswith(self.suffixes) and not name.startswith(".")


def _distinct(patterns: str | Sequence[str], base: Path, sought: _Sought) -> list[Path | str]:
    """Return the shards that patterns name, each once: absolute paths, or URLs."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    found: dict[str, tuple[Path | str, str]] = {}
    folders: dict[str, str] = {}
    for pattern, path in _expand_all(patterns, base, sought):
        real = urls.key(path) if isinstance(path, str) else _real(path, folders)
        if real in found:
            first = urls.shown(found[real][1])
            pattern, path = urls.shown(pattern), urls.shown(str(path))
            how = f"by '{first}' and '{pattern}'" if first != pattern else f"by '{pattern}'"
            raise UserError(f"shard {path} is named twice, {how}; each shard may come once")
        found[real] = path if isinstance(path, str) else Path(os.path.abspath(path)), pattern
    if not found:
        raise UserError("no shards given; name a folder, a glob or a list of .tar files")
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


def _expand_all(
    patterns: Sequence[str], base: Path, sought: _Sought, *, in_list: bool = False
) -> Iterator[tuple[str, Path | str]]:
    """Yield each pattern with each local path, or URL, that it stands for."""
    for pattern in patterns:
        pattern = os.fspath(pattern).strip()
        # `pipe:` would run a shell, and members be unpickled (webdataset issue 490).
        if urls.is_url(pattern):
            urls.check(pattern, in_list=in_list)
            for part in _split_braces(pattern):
                for url in _expand_url(part, sought):
                    yield pattern, url
            continue
        if os.path.basename(pattern) == CLASS_NAMES:
            continue
        if pattern.lower().endswith(".txt"):
            list_file = _resolve(pattern, base)
            for path in _expand_list(list_file, sought):
                yield pattern, path
            continue
        for part in _split_braces(pattern):
            for path in _expand_one(part, base, sought):
                yield pattern, path


def _expand_list(list_file: Path, sought: _Sought) -> Iterator[Path | str]:
    what = f"list of shards {list_file} can't be read"
    lines = split_lines(read_text_file(list_file, what=what, largest=_LARGEST_LIST))
    lines = [line.strip() for line in lines]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"list of shards {list_file} is empty; write one pattern per line")
    nested = [line for line in lines if line.lower().endswith(".txt") and not urls.is_url(line)]
    if nested:
        raise UserError(f"list of shards {list_file} names another list '{nested[0]}'; join them")
    for _, path in _expand_all(lines, list_file.parent, sought, in_list=True):
        yield path


def _expand_url(url: str, sought: _Sought) -> list[str]:
    """Return the URLs of the shards that one without braces stands for."""
    name = urls.name(url)
    if urls.scheme(url) in urls.WEB:
        if not urls.has_path(url):
            raise UserError(f"shards '{urls.shown(url)}': name a file of this server")
        if name.endswith(".txt") or url.endswith("/"):
            raise UserError(
                f"shards '{urls.shown(url)}': a web server can't be listed; name the shards with "
                "braces, or write their URLs into a local .txt file"
            )
        return [url]
    if name.endswith(".txt"):
        raise UserError(f"shards '{url}': copy the list here; it may name URLs")
    is_glob = glob.has_magic(name)
    if glob.has_magic(url.rstrip("/").rpartition("/")[0]):
        raise UserError(f"shards '{url}': a glob may stand in the last part of a URL only")
    if name.endswith(sought.suffixes) and not is_glob:
        return [url]
    folder = url.rpartition("/")[0] if is_glob else url.rstrip("/")
    pattern = name if is_glob else "*"
    prefix = f"{folder}/{re.split('[*?[]', name)[0] if is_glob else ''}"
    found = [
        one.url
        for one in remote.listing(prefix, sought.cache)
        if "/" not in one.url[len(folder) + 1 :]
        and sought.fits(one.url.rpartition("/")[2])
        and fnmatchcase(one.url.rpartition("/")[2], pattern)
    ]
    if not found:
        wanted = name if is_glob else f"*{sought}"
        raise UserError(f"no shard matches '{url}': nothing there is named {wanted}")
    return sorted(found, key=natural_key)


def _split_braces(pattern: str) -> list[str]:
    from braceexpand import braceexpand

    if not urls.is_url(pattern) and os.path.exists(os.path.expanduser(pattern)):
        return [pattern]
    try:
        return list(braceexpand(pattern))
    except ValueError:
        raise UserError(f"shards '{urls.shown(pattern)}': braces that don't match up") from None


def _resolve(pattern: str, base: Path) -> Path:
    return base / os.path.expanduser(pattern)


def _expand_one(pattern: str, base: Path, sought: _Sought) -> list[Path]:
    path = _resolve(pattern, base)
    if path.is_file() or (sought.pipes and path.is_fifo()):
        return [path]
    if path.is_dir():
        there = os.listdir(path)
        names = [name for name in there if sought.fits(name)]
        if not names:
            hint = _stream_hint(any(name.endswith(_COMPRESSED_SUFFIXES) for name in there), sought)
            raise UserError(f"folder '{pattern}' holds no {sought} file{_contents(path)}{hint}")
        return [path / name for name in sorted(names, key=natural_key)]
    matches = glob.glob(str(path), recursive=True)
    shards = [
        name
        for name in matches
        if (sought.fits(os.path.basename(name)) and os.path.isfile(name))
        or (sought.pipes and Path(name).is_fifo())
    ]
    if not shards and matches:
        name = os.path.basename(min(matches))
        hint = f"; for the shards in folders write '{pattern}/*{_SUFFIX}'"
        if not any(map(os.path.isdir, matches)):
            streams = (m.endswith(_COMPRESSED_SUFFIXES) or Path(m).is_fifo() for m in matches)
            hint = _stream_hint(any(streams), sought)
        raise UserError(f"no {sought} file matches '{pattern}', only e.g. '{name}'{hint}")
    if not shards:
        raise UserError(f"no shard matches '{pattern}'{_explain(path, sought)}")
    return [Path(name) for name in sorted(shards, key=natural_key)]


def _stream_hint(is_stream: bool, sought: _Sought) -> str:
    return "; data.mode: stream reads it" if is_stream and not sought.pipes else ""


def _explain(path: Path, sought: _Sought) -> str:
    """Say what is there instead of a path that isn't."""
    missing, folder = path.name, path.parent
    while not folder.is_dir() and folder != folder.parent:
        missing, folder = folder.name, folder.parent
    if folder != path.parent:
        names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
        return f": no folder '{missing}' in {folder.absolute()}{nearest(missing, names)}"
    names = [name for name in os.listdir(folder) if sought.fits(name)]
    if not names:
        return f": {folder.absolute()} holds no {sought} file{_contents(folder)}"
    names.sort(key=natural_key)
    span = f"'{names[0]}'" + (f" to '{names[-1]}'" if len(names) > 1 else "")
    hint = nearest(missing, names)
    return f": {folder.absolute()} holds {len(names)} {sought} file(s), {span}{hint}"


def _contents(folder: Path) -> str:
    names = sorted(os.listdir(folder), key=natural_key)
    if not names:
        return "; it is empty"
    named = ", ".join(f"'{name}'" for name in names[:_MAX_NAMED])
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"; it has {named}{more}"
