"""``mmlight shards check``: every member decoded, and what is wrong told by its kind."""

import argparse
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import IO

import numpy as np

from mmlight.class_names import read_names
from mmlight.data.decode.probe import kind
from mmlight.data.faults import NamedLabels
from mmlight.data.packing.write import leads_out
from mmlight.data.scan import scan
from mmlight.data.shards import index, index_file, storage
from mmlight.data.shards.corpus import ChecksumError, Corpus
from mmlight.data.shards.paths import expand
from mmlight.errors import UserError
from mmlight.terminal import say

# Formats that run what somebody wrote when they are read; webdataset's `.decode()` reads them.
_CODE = ("pkl", "pickle", "pyd", "pt", "pth", "joblib", "dill")
# Larger members are read one by one: each thread holds what it reads.
_SMALL = 4 << 20
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
        found = _Found(Counter(), defaultdict(list), report)
        check = _Check(labels, found)
        total = sum(known[0].num_samples for path in paths if (known := index_file.load(path)))
        samples = check.samples(paths)
        for _, faults in scan(
            samples, check.look, what="Checking", total=total or None, workers=options.workers
        ):
            for fault in faults:
                found.add(fault)
        for place, problem in labels.left():
            shard, _, name = place.partition(": ")
            key, _, member = name.partition(".")
            found.add(Fault("label that is none", shard, key, member, problem))
    _tell(check, found, labels)
    return 1 if found.counts else 0


def _tell(check: "_Check", found: _Found, labels: NamedLabels) -> None:
    for kind_of, count in found.counts.most_common():
        say(f"{count:,} x {kind_of}")
        for fault in found.named[kind_of]:
            say(f"  bad: {fault.place}: {fault.said}")
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


class _Check:
    def __init__(self, labels: NamedLabels, found: _Found) -> None:
        self._labels = labels
        self._found = found
        self.num_shards = self.num_samples = self.num_ignored = 0
        self.undecoded: Counter[str] = Counter()

    def samples(
        self, paths: Sequence[storage.Shard]
    ) -> Iterator[tuple[Corpus, Sequence[str], int]]:
        """Yield what there is to look at; shards that cannot be read are found here."""
        for path in paths:
            self.num_shards += 1
            known = index_file.load(path)
            try:
                # The index first: its time may be right while bytes on the disk have rotted.
                if known and known[0].sha256 != storage.digest(path):
                    said = (
                        "its content is not what was indexed; restore it, or accept it with "
                        "`mmlight shards index --rebuild`"
                    )
                    self._found.add(Fault("shard that has changed", str(path), "", "", said))
                    self.num_samples += known[0].num_samples
                    continue
                (shard,) = index.load_or_build([path], progress=False)
                names = self._labels.of(path)
            except (OSError, UserError) as error:
                said = str(error)
                self._found.add(Fault("shard that can't be read", str(path), "", "", said))
                self.num_samples += known[0].num_samples if known else 0
                continue
            self.num_samples += shard.num_samples
            self.num_ignored += shard.num_ignored
            for extension, count in shard.extensions.items():
                ending = extension.rpartition(".")[2]
                if kind(extension) == "other" and ending not in _CODE:
                    self.undecoded[ending] += count
            corpus = Corpus([shard])
            yield from ((corpus, names, number) for number in range(len(corpus)))

    def look(self, sample: tuple[Corpus, Sequence[str], int]) -> list[Fault]:
        """Return what is wrong with a sample."""
        corpus, names, number = sample
        shard, key = corpus.origin(number)
        found = []
        if leads_out(key):
            said = "`tar -x` would write outside of its folder; mmlight never unpacks"
            found.append(Fault("key that leads out of a folder", shard, key, "", said))
        sizes = corpus.members(number)
        together = self._together(corpus, number, sizes)
        for extension in sizes:
            try:
                data = together.pop(extension, None)
                if data is None:
                    data = corpus.read(number, [extension])[extension]
            except ChecksumError as error:
                found.append(Fault("bytes that have changed", shard, key, extension, str(error)))
                continue
            except (OSError, UserError) as error:
                found.append(Fault("sample that can't be read", shard, key, "", str(error)))
                break
            at = f"{shard}: {key}.{extension}"
            if problem := self._labels.fault(extension, data, names=names, place=at):
                found.append(Fault(_kind_of(extension, problem), shard, key, extension, problem))
            elif code := code_in(extension, data):
                found.append(Fault("member that may run", shard, key, extension, code))
        return found

    @staticmethod
    def _together(corpus: Corpus, number: int, sizes: Mapping[str, int]) -> dict[str, bytes]:
        """Return small members, read at once; none where one of them can't be read."""
        small = [name for name, size in sizes.items() if size <= _SMALL]
        try:
            return corpus.read(number, small)
        except (OSError, UserError):
            return {}  # they are read one by one, and it is told which


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
