"""Plain files as samples, for `mmlight predict`: they are read where they lie, without shards."""

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from mmlight.data.decode import probe
from mmlight.data.members import Members
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.paths import natural_key
from mmlight.data.splits.split import Split
from mmlight.errors import UserError, nearest
from mmlight.modality import Modality
from mmlight.terminal import one_line
from mmlight.text_file import MIB, read_text_file, split_lines

_log = logging.getLogger(__name__)
# A list of paths, or texts to predict, a line each.
_LARGEST_LIST = 1024 * MIB

# What the decoders of `image.py` and `audio.py` read, by the ending of the file's name.
ENDINGS: dict[Modality, tuple[str, ...]] = {
    "image": probe.ENDINGS["image"],
    "text": ("txt",),
    "audio": probe.ENDINGS["audio"],
}
_LIST_MARK = "@"
_MAX_NAMED = 5


@dataclass
class PredictSplit:
    """What ``mmlight predict`` reads: shards, plain files, or texts.

    Attributes:
        shards: as in `Split`; they are passed over where `files` or `text` are given, so that
            files can be given to an experiment that names shards.
        files: a file, a folder (with all below it), a glob, or a list of these. For a model
            without a text tower a ``.txt`` file is a list with a path in each line; ``@list`` is
            one for every model. For a model of text each line of a ``.txt`` file is a sample. For
            a model of several modalities, files that differ only in their ending are one sample,
            and a ``.txt`` among them is its text as a whole.
        text: texts to predict on, each a sample.
        members: how the shards' members are mapped; None takes the data module's.
        only: which samples of the shards are taken, as in `Split`.
        without: likewise, which are not.
        per_class: likewise.
        limit: likewise.
    """

    shards: str | list[str] | None = None
    files: str | list[str] | None = None
    text: str | list[str] | None = None
    members: Members | None = None
    only: dict[str, list[str | int] | str | int] | None = None
    without: dict[str, list[str | int] | str | int] | None = None
    per_class: int | None = None
    limit: int | None = None

    def split(self) -> Split:
        """Return the shards and which of their samples to take."""
        return Split(
            self.shards or [],
            members=self.members,
            only=self.only,
            without=self.without,
            per_class=self.per_class,
            limit=self.limit,
        )

    @property
    def is_plain(self) -> bool:
        """Whether files or texts are given, rather than shards."""
        return self.files is not None or self.text is not None


@dataclass(frozen=True)
class PlainSample:
    """A sample made of plain files, or of a line of one.

    Attributes:
        key: what names it in the output: the file's path, the path without its ending where
            several files make the sample, or ``path:line``.
        files: the file of each ending.
        text: the text, where it is not a file of its own.
    """

    key: str
    files: dict[str, str] = field(default_factory=dict)
    text: str | None = None


class FileCorpus(Corpus):
    """Plain files, as `find_samples` finds them, seen as a sequence of samples without shards."""

    has_shards = False

    def __init__(self, samples: Sequence[PlainSample]) -> None:
        super().__init__([])
        self.samples = list(samples)
        self.shard_sizes = np.array([len(self.samples)], np.int64)
        self.starts = np.array([0, len(self.samples)], np.int64)

    def __getstate__(self) -> dict[str, list[PlainSample]]:
        return {"samples": self.samples}

    def key(self, sample: int) -> str:
        """Return the sample's key."""
        return self.samples[sample].key

    def origin(self, sample: int) -> tuple[str, str]:
        """Return the folder and the key of a sample."""
        key = self.samples[sample].key
        return os.path.dirname(key), key

    def extensions(self) -> dict[str, int]:
        """Return how many samples have a file of each ending; lines of text count as txt."""
        total: Counter[str] = Counter()
        for sample in self.samples:
            total.update(["txt"] if sample.text is not None else list(sample.files))
        return dict(total)

    def members(self, sample: int) -> dict[str, int]:
        """Return the size in bytes of each file of a sample, by its ending.

        Raises:
            OSError: one is not there.
        """
        found = self.samples[sample]
        if found.text is not None:
            return {"txt": len(found.text.encode("utf-8", "replace"))}
        return {ending: os.path.getsize(path) for ending, path in found.files.items()}

    def fingerprint(self) -> str:
        """Return a SHA-256 of the keys, texts, and the files' sizes and times of change."""
        digest = sha256()
        for sample in self.samples:
            digest.update(f"{sample.key}\0{sample.text}\0".encode("utf-8", "surrogateescape"))
            for path in sample.files.values():
                try:
                    status = os.stat(path)
                    digest.update(f"{status.st_size} {status.st_mtime_ns}\0".encode())
                except OSError:
                    digest.update(b"missing\0")
        return digest.hexdigest()

    def read(self, sample: int, extensions: Sequence[str]) -> dict[str, bytes]:
        """Read the files of a sample that have one of these endings.

        Raises:
            OSError: a file cannot be read.
        """
        found = self.samples[sample]
        if found.text is not None:
            return {"txt": found.text.encode("utf-8", "replace")} if "txt" in extensions else {}
        wanted = [ending for ending in found.files if ending in extensions]
        return {ending: Path(found.files[ending]).read_bytes() for ending in wanted}


def file_members(modalities: Sequence[Modality]) -> Members:
    """Return how endings of plain files map to modalities."""
    endings = {name: list(ENDINGS[name]) for name in modalities}
    return Members(image=endings.get("image"), text=endings.get("text"), audio=endings.get("audio"))


def find_samples(
    given: PredictSplit, *, modalities: Sequence[Modality], where: str
) -> list[PlainSample]:
    """Return the samples that files and texts make, in the order given, folders in natural order.

    Args:
        given: files, texts, or both.
        modalities: what the model takes.
        where: name of the setting for messages, such as ``data.predict``.

    Raises:
        UserError: a path that is not there (in a list it becomes a sample that cannot be read),
            a file that no modality takes, or nothing at all.
    """
    texts = [given.text] if isinstance(given.text, str) else given.text or []
    if texts and "text" not in modalities:
        raise UserError(f"{where}.text: this model takes {' and '.join(modalities)}, not text")
    patterns = [given.files] if isinstance(given.files, str) else given.files or []
    kinds = {ending: name for name in modalities for ending in ENDINGS[name]}
    paths = list(dict.fromkeys(_expand(patterns, kinds, where=f"{where}.files")))
    samples = [PlainSample(f"text:{number}", text=text) for number, text in enumerate(texts, 1)]
    samples += _join(paths, kinds, is_alone=len(modalities) == 1)
    if not samples:
        raise UserError(f"{where}: no text in {', '.join(patterns)}; give a sample in each line")
    return samples


def _expand(patterns: Sequence[str], kinds: dict[str, Modality], *, where: str) -> Iterator[str]:
    for pattern in patterns:
        path = os.path.expanduser(pattern)
        if path.startswith(_LIST_MARK):
            yield from _expand_list(path.removeprefix(_LIST_MARK), kinds, where=where)
        elif os.path.isdir(path):
            yield from _walk(path, kinds, where=where)
        elif os.path.isfile(path) or os.path.exists(path):
            if _ending(path) == "txt" and "txt" not in kinds:
                yield from _expand_list(path, kinds, where=where)
            elif _ending(path) in kinds:
                yield path
            else:
                raise UserError(f"{where}: {path} is none of {_readable(kinds)}")
        elif found := sorted(glob.glob(path, recursive=True), key=natural_key):
            yield from _expand(found, kinds, where=where)
        else:
            folder = os.path.dirname(path) or "."
            names = os.listdir(folder) if os.path.isdir(folder) else []
            hint = nearest(os.path.basename(path), names)
            raise UserError(f"{where}: no file or folder '{pattern}'{hint}")


def _expand_list(path: str, kinds: dict[str, Modality], *, where: str) -> Iterator[str]:
    what = f"{where}: the list {path} can't be read"
    lines = split_lines(read_text_file(path, what=what, largest=_LARGEST_LIST))
    named = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not named:
        raise UserError(f"{where}: the list {path} is empty; write one path per line")
    for line in named:
        entry = os.path.join(os.path.dirname(path), os.path.expanduser(line))
        if os.path.isdir(entry):
            yield from _walk(entry, kinds, where=where)
        elif _ending(entry) in kinds:
            yield entry  # if it is not there, its row says so
        else:
            raise UserError(f"{where}: {path} names {line}, which is none of {_readable(kinds)}")


def _walk(top: str, kinds: dict[str, Modality], *, where: str) -> Iterator[str]:
    others: Counter[str] = Counter()
    count = 0
    for root, folders, names in os.walk(top):
        folders[:] = sorted((n for n in folders if not n.startswith(".")), key=natural_key)
        for name in sorted(names, key=natural_key):
            if name.startswith("."):
                continue
            if _ending(name) in kinds:
                count += 1
                yield os.path.join(root, name)
            else:
                others[_ending(name)] += 1
    left = ", ".join(f"{n} .{ending}" for ending, n in others.most_common(_MAX_NAMED))
    if not count:
        raise UserError(
            f"{where}: folder {top} holds none of {_readable(kinds)}; it has {left or 0}"
        )
    if others:
        left_out = one_line(f"{top}: {left}")
        _log.warning("%s: left out files of other kinds in %s", where, left_out)


def _join(paths: list[str], kinds: dict[str, Modality], *, is_alone: bool) -> list[PlainSample]:
    """Return the samples of files: each alone, or with those that differ in their ending."""
    groups: dict[str, dict[str, str]] = {}
    for path in paths:
        files = groups.setdefault(path if is_alone else os.path.splitext(path)[0], {})
        twin = next((p for e, p in files.items() if kinds[e] == kinds[_ending(path)]), None)
        if twin is not None:
            raise UserError(
                f"{twin} and {path} are both the {kinds[_ending(path)]} of one sample; rename one"
            )
        files[_ending(path)] = path
    samples: list[PlainSample] = []
    for stem, files in groups.items():
        if list(files) == ["txt"]:
            samples += _lines(files["txt"])
        else:
            key = stem if len(files) > 1 else next(iter(files.values()))
            samples.append(PlainSample(_shown(key), files))
    return samples


def _lines(path: str) -> list[PlainSample]:
    try:
        lines = split_lines(read_text_file(path, what=path, largest=_LARGEST_LIST))
    except UserError:
        return [PlainSample(_shown(path), {"txt": path})]  # its row says why
    return [
        PlainSample(f"{_shown(path)}:{number}", text=line)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _shown(path: str) -> str:
    r"""Return a path as text; what is not UTF-8 in it (``na\xefve.png``) no file could hold."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower().removeprefix(".")


def _readable(kinds: dict[str, Modality]) -> str:
    return "what this model reads: " + ", ".join(f".{ending}" for ending in kinds)
