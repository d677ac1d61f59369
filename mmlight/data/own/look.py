"""Looks into a folder or table of somebody's own: what is in there, and how it is packed."""

import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from mmlight.data.decode import probe
from mmlight.data.own.tables import TABLES, Columns, look_into
from mmlight.data.packing.folder import split_file_name
from mmlight.data.shards.paths import natural_key
from mmlight.data.shards.tar import split_name
from mmlight.errors import UserError
from mmlight.modality import MODALITIES, Modality

# Folders, tables and packs of these names are splits of one data set.
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_MOST_FILES, _MOST_CLASSES, _MOST_MEMBERS = 200_000, 10_000, 20_000
_TAKEN = (
    "what can be learned from: a folder per class, pictures or sounds with a .txt of the same "
    f"name, a table ({', '.join(TABLES)}) with columns of paths, captions and labels, or shards "
    "(.tar)"
)


@dataclass
class FoundData:
    """What lies in a place.

    Attributes:
        path: the place.
        members: extensions of each modality (``json:`` values never), most frequent first.
        has_labels: whether samples bear a class, which packing writes as ``cls``.
        has_names: whether packing writes ``classnames.txt`` beside the shards.
        sizes: samples of each split.
        packs: arguments of ``mmlight shards pack`` for each split, without where to.
        shards: of each split, where they are shards already.
        lines: further lines on what was seen.
        example: a file of each modality.
        stray: what keeps folders from being classes.
    """

    path: Path
    members: dict[Modality, list[str]] = field(default_factory=dict)
    has_labels: bool = False
    has_names: bool = False
    sizes: dict[str, int] = field(default_factory=dict)
    packs: dict[str, list[str]] = field(default_factory=dict)
    shards: dict[str, Path] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    example: dict[Modality, Path] = field(default_factory=dict)
    stray: str = ""

    def summary(self) -> str:
        """Return in one line what there is."""
        kinds = ", ".join(f"{name} ({', '.join(found)})" for name, found in self.members.items())
        sizes = ", ".join(f"{split} {size:,}" for split, size in self.sizes.items())
        return f"{self.path}: {sizes} samples: {kinds}{', labels' if self.has_labels else ''}"


def look(path: Path, *, encoding: str | None = None) -> FoundData:
    """Look into a folder, a table or a shard; nothing is decoded or written.

    Args:
        path: what there is.
        encoding: of tables that are text; by default UTF-8, or what a byte-order mark says.

    Raises:
        UserError: nothing there that could be learned from.
    """
    if path.is_file():
        if path.suffix.lower() == ".tar":
            return _shards(path, {"train": [path]})
        if path.suffix.lower() in TABLES:
            return _tables(path, {"train": path}, encoding)
        raise UserError(f"--data {path}: is no folder, table or shard; {_TAKEN}")
    if not path.is_dir():
        raise UserError(f"--data {path}: does not exist")
    inside = sorted((p for p in path.iterdir() if not p.name.startswith(".")), key=_natural)
    if tars := _in_splits(inside, ".tar"):
        return _shards(path, tars)
    tables = [p for p in inside if p.is_file() and p.suffix.lower() in TABLES]
    splits = {_SPLITS[p.stem.lower()]: p for p in tables if p.stem.lower() in _SPLITS}
    if "train" in splits:
        return _tables(path, splits, encoding)
    if len(tables) > 1:
        names = ", ".join(p.name for p in tables)
        raise UserError(f"--data {path}: holds several tables ({names}); name one of them")
    if tables:
        return _tables(path, {"train": tables[0]}, encoding)
    return _files(path)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    return natural_key(path.name)


def _in_splits(inside: Iterable[Path], suffix: str) -> dict[str, list[Path]]:
    """Return the files that lie in a folder itself, or in folders that are called as splits."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in inside:
        if path.is_file() and path.suffix == suffix:
            found[_SPLITS.get(path.stem.lower(), "train")].append(path)
        elif path.is_dir() and (split := _SPLITS.get(path.name.lower())):
            found[split] += sorted(path.glob(f"*{suffix}"), key=_natural)
    return {split: files for split, files in found.items() if files}


def _shards(path: Path, splits: Mapping[str, list[Path]]) -> FoundData:
    import tarfile

    found = FoundData(path)
    counts: Counter[str] = Counter()
    for split, files in splits.items():
        folder = files[0].parent
        whole = len(files) == len(list(folder.glob("*.tar")))
        if not whole and len(files) > 1:
            raise UserError(f"--data {path}: put the shards of each split into a folder of its own")
        found.shards[split] = folder if whole else files[0]
        keys = set()
        try:
            with tarfile.open(files[0]) as file:
                for member in islice(file, _MOST_MEMBERS):
                    if member.isfile() and (parts := split_name(member.name)):
                        keys.add(parts[0])
                        counts[parts[1]] += 1
        except (tarfile.TarError, OSError) as error:
            raise UserError(f"--data {path}: {files[0]}: {error}") from error
        # `mmlight shards index` tells how many; here only the first shard is read.
        found.sizes[split] = len(keys) * len(files)
        found.lines.append(f"{split}: {len(files):,} shards, {len(keys):,} samples in the first")
    found.has_labels = "cls" in counts
    names = [folder / "classnames.txt" for folder in (path, *found.shards.values())]
    found.has_names = found.has_labels and any(p.is_file() for p in names)
    return _finished(found, counts)


def _tables(path: Path, tables: Mapping[str, Path], encoding: str | None) -> FoundData:
    found = FoundData(path)
    counts: Counter[str] = Counter()
    for split, table in tables.items():
        columns: Columns = look_into(table, encoding=encoding)
        found.sizes[split] = columns.num_rows
        given = ["--encoding", encoding] if encoding else []
        found.packs[split] = [str(table), *columns.arguments(), *given]
        for extension, number in columns.extensions.items():
            counts[extension] += number
        if columns.text:
            counts["txt"] += columns.num_rows
        found.has_labels = found.has_names = columns.label is not None
        found.lines += [f"{table.name}: {line}" for line in columns.lines()]
        for kind, file in columns.examples.items():
            found.example.setdefault(kind, file)
    return _finished(found, counts)


def _files(path: Path) -> FoundData:
    found = FoundData(path)
    counts: Counter[str] = Counter()
    tops = [p for p in sorted(path.iterdir(), key=_natural) if p.is_dir()]
    tops = [p for p in tops if not p.name.startswith(".")]
    splits = {_SPLITS[p.name.lower()]: p for p in tops if p.name.lower() in _SPLITS}
    roots = splits if "train" in splits else {"train": path}
    for split, root in roots.items():
        keys: set[str] = set()
        classes: Counter[str] = Counter()
        loose = ""  # the first file that lies in no folder
        for file in islice(_walk(root), _MOST_FILES):
            parts = split_file_name(file.relative_to(root).as_posix())
            kind = probe.kind(parts[1]) if parts else "other"
            if parts is None or kind not in MODALITIES:
                continue
            counts[parts[1]] += 1
            found.example.setdefault(kind, file)
            if parts[0] not in keys:
                keys.add(parts[0])
                top, slash, _ = parts[0].partition("/")
                classes[top] += bool(slash)
                loose = loose or ("" if slash else file.name)
        if not keys:
            raise UserError(f"--data {root}: holds nothing of {_TAKEN}")
        classes = +classes
        if loose and len(classes) >= 2:
            found.stray = f"'{loose}' lies beside {len(classes)} folders, which would be classes"
        labelled = not loose and 2 <= len(classes) <= _MOST_CLASSES
        options = ["--shuffle-seed", "0"]
        if labelled:
            options.insert(0, "--label-from-folder")
            shown = ", ".join(f"{name} {number:,}" for name, number in islice(classes.items(), 6))
            more = f" and {len(classes) - 6} more" if len(classes) > 6 else ""
            found.lines.append(f"{split}: {len(classes)} class folders: {shown}{more}")
        found.has_labels = found.has_names = labelled
        found.sizes[split] = len(keys)
        found.packs[split] = [str(root), *options]
    return _finished(found, counts)


def _walk(root: Path) -> Iterable[Path]:
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            yield Path(folder, name)


def _finished(found: FoundData, counts: Counter[str]) -> FoundData:
    for modality in MODALITIES:
        own = [e for e, _ in counts.most_common() if probe.kind(e) == modality and e != "cls"]
        if own:
            found.members[modality] = own
    if not found.has_labels and len(found.members) < 2:
        only = ", ".join(found.members) or "nothing"
        stray = f"; {found.stray} without it" if found.stray else ""
        raise UserError(
            f"--data {found.path}: {only} alone, without labels or captions, is nothing of {_TAKEN}"
            f"{stray}"
        )
    return found


def command(*words: str | Path) -> str:
    """Return a command as it is typed."""
    return shlex.join(["mmlight", *map(str, words)])
