"""``mmlight shards check``: every member decoded, and what is wrong told by its kind."""

import argparse
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from typing import IO

import numpy as np

from mmlight.class_names import read_names
from mmlight.data.decode.probe import kind
from mmlight.data.faults import NamedLabels, fault, is_name
from mmlight.data.packing.write import leads_out
from mmlight.data.scan import scan
from mmlight.data.shards import index, index_file, storage
from mmlight.data.shards.corpus import ChecksumError, Corpus
from mmlight.data.shards.index_file import ShardIndex
from mmlight.data.shards.paths import expand
from mmlight.errors import UserError
from mmlight.terminal import say

# Formats that run what somebody wrote when they are read; webdataset's `.decode()` reads them.
_CODE = ("pkl", "pickle", "pyd", "pt", "pth", "joblib", "dill")
# Each thread or process takes about so many bytes at a time, of this many samples at most.
_PART, _MOST = 1 << 20, 256
# Labels of so many bytes are looked at once for all that are alike.
_SHORT = 100
# Fewer bytes are not worth processes.
_MUCH = 4 << 20
_UNREADABLE = "shard that can't be read"
# Of a kind so many are named; all of them are counted, and go into --report.
_MOST_NAMED = 1000


@dataclass(frozen=True)
class Fault:
    """What is wrong with a shard, or with a sample or one member of it.

    Attributes:
        kind: what faults of a kind are called.
        shard: path.
        key: of the sample; empty where the shard itself is at fault.
        member: extension; empty where the sample itself is.
        said: by what was tried, one line.
    """

    kind: str
    shard: str
    key: str
    member: str
    said: str

    @property
    def place(self) -> str:
        """Where it is, in a line."""
        name = f"{self.key}.{self.member}" if self.member else self.key
        return f"{self.shard}: {name}" if name else self.shard


@dataclass
class _Found:
    """All faults, counted by kind, of which some are named."""

    counts: Counter[str]
    named: dict[str, list[Fault]]
    report: IO[str] | None

    def add(self, fault: Fault) -> None:
        self.counts[fault.kind] += 1
        if len(self.named[fault.kind]) < _MOST_NAMED:
            self.named[fault.kind].append(fault)
        if self.report is not None:
            self.report.write(json.dumps(asdict(fault), ensure_ascii=False) + "\n")


def run(options: argparse.Namespace) -> int:
    """Check shards; return 1 if something is bad."""
    given = options.class_names
    labels = NamedLabels(read_names(given, what="--class-names: ") if given else ())
    paths = expand(options.patterns)
    with ExitStack() as files:
        try:
            report = options.report and files.enter_context(options.report.open("w"))
        except OSError as error:
            raise UserError(f"--report {options.report}: {error.strerror}") from error
        files.callback(_corpus.cache_clear)
        found = _Found(Counter(), defaultdict(list), report)
        check = _Check(labels, found)
        total = sum(known[0].num_samples for path in paths if (known := index_file.load(path)))
        walk = scan(
            check.parts(paths),
            look,
            size=lambda part: len(part.numbers),
            what="Checking",
            total=total or None,
            workers=options.workers,
            chunk=1,
            processes=_is_much(paths),
        )
        for _, seen in walk:
            labels.add(seen.names, numbers=seen.numbers)
            for one in seen.faults:
                found.add(one)
        for place, problem in labels.left():
            shard, _, name = place.partition(": ")
            key, _, member = name.partition(".")
            found.add(Fault("label that is none", shard, key, member, problem))
    _tell(check, found, labels)
    return 1 if found.counts else 0


def _is_much(paths: Sequence[storage.Shard]) -> bool:
    """Tell whether processes are worth their start."""
    num_bytes = 0
    for path in paths:
        try:
            num_bytes += storage.state(path).num_bytes
        except UserError:
            continue  # it is named when its turn comes
    return num_bytes > _MUCH


def _tell(check: "_Check", found: _Found, labels: NamedLabels) -> None:
    for kind_of, count in found.counts.most_common():
        say(f"{count:,} x {kind_of}")
        for one in found.named[kind_of]:
            say(f"  bad: {one.place}: {one.said}")
        if (left := count - len(found.named[kind_of])) > 0:
            say(f"  and {left:,} more (--report FILE names all)")
    if note := labels.note():
        say(note)
    for ending, count in check.undecoded.most_common():
        say(f"not decoded: {count:,} members .{ending}: of no kind that training decodes")
    if check.num_ignored:
        say(f"not read: {check.num_ignored:,} entries that belong to no sample")
    num_bad = found.counts.total()
    verdict = f"{num_bad:,} problem{'s' * (num_bad != 1)}" if num_bad else "all good"
    say(f"{check.num_shards:,} shards, {check.num_samples:,} samples: {verdict}")


@dataclass(frozen=True)
class _Part:
    """What is looked at together: samples of a shard that had this hash, and names of classes."""

    path: storage.Shard
    sha256: str
    names: Sequence[str]
    numbers: range


@dataclass
class _Seen:
    """What is wrong with samples, and their labels of unknown names (see `NamedLabels.add`)."""

    faults: list[Fault] = field(default_factory=list)
    names: list[tuple[str, str]] = field(default_factory=list)
    numbers: int = 0


@dataclass(frozen=True)
class _Unread:
    """A shard of which nothing is read."""

    kind: str
    said: str
    num_samples: int


class _Check:
    def __init__(self, labels: NamedLabels, found: _Found) -> None:
        self._labels = labels
        self._found = found
        self.num_shards = self.num_samples = self.num_ignored = 0
        self.undecoded: Counter[str] = Counter()

    def parts(self, paths: Sequence[storage.Shard]) -> Iterator[_Part]:
        """Yield what there is to look at; shards that cannot be read are found here."""
        for path, known in scan(paths, _known, what="", chunk=1, shown=False):
            self.num_shards += 1
            if isinstance(known, _Unread):
                self._found.add(Fault(known.kind, str(path), "", "", known.said))
                self.num_samples += known.num_samples
                continue
            try:
                names = self._labels.of(path)
            except UserError as error:
                self._found.add(Fault(_UNREADABLE, str(path), "", "", str(error)))
                continue
            self.num_samples += known.num_samples
            self.num_ignored += known.num_ignored
            for extension, count in known.extensions.items():
                ending = extension.rpartition(".")[2]
                if kind(extension) == "other" and ending not in _CODE:
                    self.undecoded[ending] += count
            numbers = range(known.num_samples)
            several = max(1, min(_MOST, len(numbers) * _PART // known.num_bytes))
            for start in numbers[::several]:
                yield _Part(path, known.sha256, names, numbers[start : start + several])


def _known(path: storage.Shard) -> ShardIndex | _Unread:
    """Return the index of a shard whose bytes are those that were indexed."""
    known = index_file.load(path)
    num_samples = known[0].num_samples if known else 0
    try:
        # The index first: its time may be right while bytes on the disk have rotted.
        if known and known[0].sha256 != storage.digest(path):
            said = (
                "its content is not what was indexed; restore it, or accept it with "
                "`mmlight shards index --rebuild`"
            )
            return _Unread("shard that has changed", said, num_samples)
        return index.load_or_build([path], progress=False)[0]
    except (OSError, UserError) as error:
        return _Unread(_UNREADABLE, str(error), num_samples)


# Of one shard after the other: few are in use at once.
@lru_cache(maxsize=8)
def _corpus(path: storage.Shard, sha256: str) -> Corpus:
    """Open a shard whose bytes had this hash."""
    (shard,) = index.load_or_build([path], progress=False)
    if shard.sha256 != sha256:
        raise UserError(f"shard {path} changed while it was read; wait until it is written")
    return Corpus([shard])


def look(part: _Part) -> _Seen:
    """Return what is wrong with samples."""
    seen = _Seen()
    shard = str(part.path)

    def add(key: str, extension: str, kind_of: str, said: object) -> None:
        seen.faults.append(Fault(kind_of, shard, key, extension, str(said)))

    fault_of = partial(fault, class_names=part.names)
    fault_of_label = lru_cache(fault_of)  # many are alike
    try:
        corpus = _corpus(part.path, part.sha256)
        read = corpus.read_run(part.numbers)
        for number, (key, members) in zip(part.numbers, read, strict=True):
            if leads_out(key):
                said = "`tar -x` would write outside of its folder; mmlight never unpacks"
                add(key, "", "key that leads out of a folder", said)
            if members is None:
                members, damaged = _one_by_one(corpus, number)
                for error in damaged:
                    if isinstance(error, ChecksumError):
                        add(key, error.member, "bytes that have changed", error)
                    else:
                        add(key, "", "sample that can't be read", error)
            for extension, data in members.items():
                is_label = extension.rpartition(".")[2] == "cls"
                is_short = is_label and len(data) <= _SHORT  # what is remembered stays in memory
                problem = (fault_of_label if is_short else fault_of)(extension, data)
                if is_label and not part.names:
                    if problem and is_name(problem, data):
                        seen.names.append((f"{shard}: {key}.{extension}", problem))
                        continue
                    seen.numbers += problem is None
                if problem:
                    add(key, extension, _kind_of(extension, problem), problem)
                elif code := code_in(extension, data):
                    add(key, extension, "member that may run", code)
    except (OSError, UserError) as error:
        add("", "", _UNREADABLE, error)
    return seen


def _one_by_one(corpus: Corpus, number: int) -> tuple[dict[str, bytes], list[Exception]]:
    """Return the members of a sample that can be read, and why others can't be."""
    members: dict[str, bytes] = {}
    damaged: list[Exception] = []
    for extension in corpus.members(number):
        try:
            members |= corpus.read(number, [extension])
        except (OSError, UserError) as error:
            damaged.append(error)
            if not isinstance(error, ChecksumError):
                break
    return members, damaged


def code_in(extension: str, data: bytes) -> str | None:
    """Say why readers other than ours might run a member; None where none would.

    Nothing of it is unpickled here: of arrays the header alone is read.
    """
    ending = extension.rpartition(".")[2]
    if ending in _CODE:
        return "a pickle, which mmlight never opens and webdataset's decode() runs"
    if ending == "npy":
        try:
            file = io.BytesIO(data)
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0
            if version > (1, 0):
                read = np.lib.format.read_array_header_2_0
            _, _, dtype = read(file)
        except (ValueError, EOFError, OSError):
            return None  # not an array: nothing that anybody runs
        if dtype.hasobject:
            return "an array of objects, which is a pickle inside"
    return None


def _kind_of(extension: str, said: str) -> str:
    error = said.partition(":")[0]
    match kind(extension):
        case "image" if "more than image.max_pixels" in said:
            return "image of too many pixels"
        case "image":
            return "image that can't be decoded"
        case "audio" if "cut short" in said:
            return "sound that is cut short"
        case "audio":
            return "sound that can't be decoded"
        case _ if "more than" in said and "MiB" in said:
            return "text that is too long"
        case _ if error == "UnicodeDecodeError":
            return "text that is not UTF-8"
        case "json":
            return "JSON that can't be parsed"
    return "label that is none" if extension.rpartition(".")[2] == "cls" else "text that is none"
