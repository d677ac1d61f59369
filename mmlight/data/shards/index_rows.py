"""The rows of an index, one for each sample of a shard, and the bytes that hold them in a file."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Columns in their order, with what there is one of: a sample or a member.
_COLUMNS = {
    "duration_s": ("<f4", "samples"),
    "width": ("<i4", "samples"),
    "height": ("<i4", "samples"),
    "members_each": ("<i4", "samples"),
    "key_bytes_each": ("<i4", "samples"),
    "extension": ("<i4", "members"),
    "crc32": ("<u4", "members"),
    "offset": ("<i8", "members"),
    "size": ("<i8", "members"),
}


class SampleKeys:
    """Sample keys, kept as the bytes of all and where each ends."""

    def __init__(self, text: bytes, ends: np.ndarray) -> None:
        self._text = text
        self._starts = np.concatenate([[0], ends])

    def __getitem__(self, row: int) -> str:
        row = range(len(self._starts) - 1)[row]
        text = self._text[self._starts[row] : self._starts[row + 1]]
        return text.decode("utf-8", "backslashreplace")

    def run(self, rows: range) -> list[str]:
        """Return the keys of rows that follow one another."""
        ends = self._starts[rows.start : rows.stop + 1].tolist()
        return [
            self._text[start:end].decode("utf-8", "backslashreplace")
            for start, end in itertools.pairwise(ends)
        ]


@dataclass(frozen=True)
class IndexRows:
    """The samples of one shard; members of sample `i` are entries ``start[i]:start[i + 1]``.

    Attributes:
        keys: sample keys.
        extensions: names that `extension` numbers.
        start: int64, one more than samples.
        extension: int32 per member, a place in `extensions`.
        offset: int64 per member, where its data begin in the shard.
        size: int64 per member, bytes.
        crc32: uint32 per member, of its data.
        duration_s: float32 per sample, of its first sound; nan without one.
        width: int32 per sample, of its first image in pixels; 0 without one.
        height: likewise.
        num_bytes: memory that all this takes.
    """

    keys: SampleKeys
    extensions: tuple[str, ...]
    start: np.ndarray
    extension: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    crc32: np.ndarray
    duration_s: np.ndarray
    width: np.ndarray
    height: np.ndarray
    num_bytes: int


@dataclass(frozen=True)
class Counts:
    """How many samples, members and bytes of keys there are."""

    samples: int
    members: int
    key_bytes: int

    def num_bytes(self) -> int:
        """Return the length of the rows."""
        counts = (getattr(self, of) * np.dtype(kind).itemsize for kind, of in _COLUMNS.values())
        return self.key_bytes + sum(counts)


def to_bytes(keys: Sequence[str], columns: Mapping[str, Sequence[float]]) -> tuple[bytes, Counts]:
    """Return the bytes of `IndexRows`, given `members_each` of the samples in place of `start`."""
    texts = [key.encode("utf-8", "backslashreplace") for key in keys]
    given = {"key_bytes_each": [len(text) for text in texts], **columns}
    arrays = [np.asarray(given[name], kind) for name, (kind, _) in _COLUMNS.items()]
    content = b"".join([*(array.tobytes() for array in arrays), *texts])
    return content, Counts(len(keys), len(columns["size"]), sum(map(len, texts)))


def from_bytes(
    content: bytes, counts: Counts, *, extensions: Sequence[str], shard_bytes: int
) -> IndexRows:
    """Return rows from their bytes.

    Raises:
        ValueError: they point outside the shard.
    """
    column: dict[str, np.ndarray] = {}
    place = 0
    for name, (kind, of) in _COLUMNS.items():
        column[name] = np.frombuffer(content, kind, getattr(counts, of), place)
        place += column[name].nbytes
    members_each, key_bytes_each = column.pop("members_each"), column.pop("key_bytes_each")
    start = np.concatenate([[0], np.cumsum(members_each, dtype=np.int64)])
    ends = np.cumsum(key_bytes_each, dtype=np.int64)
    extension, offset, size = column["extension"], column["offset"], column["size"]
    # Of a file that was made by somebody else, all may be as the checksum says, and wrong.
    is_sound = (
        members_each.min() > 0
        and start[-1] == counts.members
        and key_bytes_each.min() >= 0
        and ends[-1] == counts.key_bytes
        and 0 <= extension.min()
        and extension.max() < len(extensions)
        and min(offset.min(), size.min()) >= 0
        and (offset <= shard_bytes).all()
        and (size <= shard_bytes - offset).all()
    )
    if not is_sound:
        raise ValueError("it points outside the shard")
    return IndexRows(
        keys=SampleKeys(content[place:], ends),
        extensions=tuple(extensions),
        start=start,
        num_bytes=len(content) + start.nbytes + ends.nbytes,
        **column,
    )
