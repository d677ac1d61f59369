"""Walks the headers of a tar file and groups its members into samples, refusing damage.

A tar stream ends in silence at the first header it can't read, so a damaged shard merely looks
shorter (webdataset 1.0.2 gave 2 of 10 samples, and no exception). Here each of these is an error
with the offset: a bad checksum, a file cut at a header or inside a member, a missing end-of-archive
marker, data behind the marker.
"""

import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from mmlight.data.shards.storage import OpenShard, Shard, unreadable
from mmlight.errors import UserError

BLOCK = 512
# Of what `seal` writes: the name of a header at the very beginning, and how its record begins,
# which is there again in the last block of all.
SEAL = "mmlight.seal"
SEAL_RECORD = f"89 comment={SEAL}:".encode()
_ZERO_BLOCK = bytes(BLOCK)
# Writers pad the end to whole records of 1 (bsdtar, Go, Rust) to 20 blocks (GNU tar, Python). More
# zeros are the mark of a download into a file of the final size that never completed.
_MAX_RECORD_BLOCKS = 20
# A long name or a pax record beyond this is damage or an attack on memory.
_MAX_HEADER_DATA = 1 << 20
_REGULAR = b"0\0" + b"7"
_LINKS = b"12"
# Types whose size field describes data that follows; for all other known types none does.
_WITHOUT_DATA = b"123456"
_PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")
# What of a pax header matters here; to keep all would let a file of headers fill the memory.
_PAX_KEYS = ("path", "size")
_PAX_SPARSE = "GNU.sparse."
# `int` would also take a sign, underscores and 0o: a size below 0 leads back to an earlier header.
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_DECIMAL = re.compile(rb"\d{1,19}")
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class Member:
    """A regular file in a tar: its data are bytes ``[offset, offset + size)`` of the shard."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class TarSample:
    """Consecutive members that share a key; `members` maps extension to member."""

    key: str
    members: dict[str, Member]


def _refusal(
    shard: Shard | str, offset: int, what: str, *, remedy: str = "download or pack it again"
) -> UserError:
    return UserError(f"shard {shard}: {what} (at byte {offset}); {remedy}")


def _end_of(rest: bytes, *, at_start: bool) -> str:
    """Say what a file is that ends within a header: a page of a server, say, in a shard's place."""
    if at_start and not rest:
        return "cut short: the file is empty"
    if at_start:
        return f"cut short, or no tar at all: it begins with {rest[:20]!r}"
    return "cut short: no end-of-archive marker"


def split_name(name: str) -> tuple[str, str] | None:
    """Split a member's name into sample key and extension, as webdataset does.

    The extension is what follows the first dot of the base name, in lower case; the key keeps the
    folder. Names that are no part of a sample give None: without a dot, hidden (``._x.jpg`` of
    macOS), or beginning with ``__`` (webdataset's metadata, ``__MACOSX``).
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not dot or not stem or name.startswith("__"):
        return None
    return f"{folder}{slash}{stem}", extension.lower()


def read_samples(file: OpenShard, *, max_member_bytes: int) -> tuple[list[TarSample], int]:
    """Read all headers of a tar file (ustar, pax or GNU) and group its members into samples.

    Returns:
        The samples in their order in the file, and the number of members that belong to none.

    Raises:
        UserError: the file is damaged, compressed, no tar, or breaks the rules for samples.
    """
    shard = file.shard
    samples: list[TarSample] = []
    first_offset: dict[str, int] = {}
    num_ignored = 0
    for member, typeflag in _walk(file):
        parts = place_in_sample(shard, member, typeflag, max_member_bytes=max_member_bytes)
        if parts is None:
            num_ignored += typeflag != b"5"
            continue
        key, extension = parts
        if not samples or samples[-1].key != key:
            if key in first_offset:
                what = f"sample '{key}' comes twice, first at byte {first_offset[key]}"
                remedy = "pack it again with the members of a sample side by side, keys unique"
                raise _refusal(shard, member.offset, what, remedy=remedy)
            first_offset[key] = member.offset
            samples.append(TarSample(key, {}))
        if extension in samples[-1].members:
            raise comes_twice(shard, member, key=key, extension=extension)
        samples[-1].members[extension] = member
    if not samples:
        remedy = "members are named KEY.EXTENSION, such as 0001.jpg"
        raise _refusal(shard, 0, f"holds no sample ({num_ignored} other members)", remedy=remedy)
    return samples, num_ignored


def place_in_sample(
    shard: Shard | str, member: Member, typeflag: bytes, *, max_member_bytes: int
) -> tuple[str, str] | None:
    """Return key and extension of a member; None of one that belongs to no sample.

    Raises:
        UserError: it has no data, or too many.
    """
    parts = split_name(member.name)
    if parts is None or (typeflag not in _REGULAR and typeflag not in _LINKS):
        return None
    where = f"member '{member.name}'"
    if typeflag in _LINKS:
        remedy = "pack it again with tar --dereference --hard-dereference"
        raise _refusal(shard, member.offset, f"{where} is a link without data", remedy=remedy)
    if member.size > max_member_bytes:
        what = f"{where} has {member.size} bytes, the limit is {max_member_bytes}"
        remedy = "raise max_member_bytes if that is meant"
        raise _refusal(shard, member.offset, what, remedy=remedy)
    return parts


def comes_twice(shard: Shard | str, member: Member, *, key: str, extension: str) -> UserError:
    """Return the error of a sample with two members of one extension."""
    what = f"sample '{key}' has two members '.{extension}'"
    remedy = "pack it again with one of them renamed"
    return _refusal(shard, member.offset, what, remedy=remedy)


def cut_short(shard: Shard | str, name: str, *, offset: int) -> UserError:
    """Return the error of a shard that ends inside a member."""
    return _refusal(shard, offset, f"cut short inside member '{name}'")


def _walk(file: OpenShard) -> Iterator[tuple[Member, bytes]]:
    """Yield every member with its type flag; raise at the first byte that makes no sense."""
    # pread rather than mmap: a file that shrinks meanwhile must not end the process by SIGBUS.
    try:
        size = file.state().num_bytes
        end = yield from walk_headers(file.shard, file.read_some, file_size=size)
        _check_tail(file.shard, size, end, file.read_some)
    except OSError as error:
        raise unreadable(file.shard, error) from error


def walk_headers(
    shard: Shard | str,
    read: Callable[[int, int], bytes],
    *,
    file_size: int | None = None,
    start: int = 0,
) -> Generator[tuple[Member, bytes], None, int]:
    """Yield every member with its type flag, and return where the end-of-archive marker begins.

    Args:
        shard: for messages.
        read: returns, from a place on, so many bytes, fewer where the file ends; places ascend.
        file_size: bytes of the file; None where only reading on tells. Who reads the members then
            notices one that is cut short.
        start: where the archive begins.

    Raises:
        UserError: at the first byte that makes no sense.
    """
    offset = start
    defaults: dict[str, str] = {}
    extended: dict[str, str] = {}
    while True:
        header = read(offset, BLOCK)
        if len(header) < BLOCK:
            raise _refusal(shard, offset, _end_of(header, at_start=offset == start))
        if header == _ZERO_BLOCK:
            if extended:
                raise _refusal(shard, offset, "zeros where a name or pax header has its member")
            return offset
        if not _checksum_matches(header):
            raise _bad_header(shard, offset, header)
        typeflag = header[156:157]
        data_offset = offset + BLOCK
        is_prologue = typeflag in b"LKxgX"  # describes the member that follows
        size = _number(header[124:136], shard, offset)
        if not is_prologue and "size" in extended:
            size = int(extended["size"])
        if typeflag == b"S" or _PAX_SPARSE in defaults | extended:
            remedy = "pack it again without tar --sparse"
            raise _refusal(shard, offset, "a sparse member, which is not supported", remedy=remedy)
        has_data = typeflag not in _WITHOUT_DATA
        offset = data_offset + (-(-size // BLOCK) * BLOCK if has_data else 0)
        if has_data and file_size is not None and data_offset + size > file_size:
            name = extended.get("path") or _name(header)
            raise cut_short(shard, name, offset=file_size)
        if is_prologue:
            if size > _MAX_HEADER_DATA:
                raise _refusal(shard, data_offset, f"a name or pax header of {size} bytes")
            data = read(data_offset, size)
            if len(data) < size:
                raise cut_short(shard, _name(header), offset=data_offset + len(data))
            if typeflag == b"L":
                extended["path"] = _text(data.split(b"\0", 1)[0])
            elif typeflag == b"g":
                if data_offset > start + BLOCK and _name(header) == SEAL:
                    raise _refusal(shard, data_offset, "the beginning of a shard in the middle")
                defaults |= _pax(data, shard, data_offset)
                if "size" in defaults:
                    raise _refusal(shard, data_offset, "a pax header gives all members one size")
            elif typeflag != b"K":
                extended |= _pax(data, shard, data_offset)
            continue
        name = (defaults | extended).get("path") or _name(header)
        # Before POSIX a folder was a regular file whose name ended in a slash.
        is_folder = typeflag == b"\0" and name.endswith("/")
        yield Member(name, data_offset, size), b"5" if is_folder else typeflag
        extended = {}


def _checksum_matches(header: bytes) -> bool:
    stored = _octal(header[148:156])
    rest = header[:148] + header[156:]
    if stored == sum(rest) + 8 * 32:
        return True
    # Some old writers summed signed bytes.
    return stored == sum(byte - 256 * (byte > 127) for byte in rest) + 8 * 32


def _bad_header(shard: Shard | str, offset: int, header: bytes) -> UserError:
    if offset:
        return _refusal(shard, offset, "corrupt header")
    for magic, name in COMPRESSED.items():
        if header.startswith(magic):
            remedy = (
                "decompress it, or train with data.mode: stream: only plain tar files have an index"
            )
            return _refusal(shard, 0, f"compressed with {name}", remedy=remedy)
    return _refusal(shard, 0, f"not a tar file, it begins with {header[:24]!r}")


def _check_tail(
    shard: Shard, file_size: int, offset: int, read: Callable[[int, int], bytes]
) -> None:
    """Refuse anything but two zero blocks and the padding of the last record.

    One zero block where the standard has two is accepted: all members are there.
    """
    num_bytes = file_size - offset
    if read(file_size - BLOCK, BLOCK).startswith(SEAL_RECORD):
        num_bytes -= BLOCK
    # So much is read, whatever the file's size says.
    tail = read(offset, min(num_bytes, (_MAX_RECORD_BLOCKS + 1) * BLOCK))
    if tail.count(0) != len(tail):
        at = offset + len(tail) - len(tail.lstrip(b"\0"))
        raise _refusal(shard, at, f"corrupt header: data behind zeros that begin at byte {offset}")
    blocks, rest = divmod(file_size, BLOCK)
    records = (n for n in range(1, _MAX_RECORD_BLOCKS + 1) if blocks % n == 0)
    # The marker may begin in the last block of a record, and then a whole one follows.
    if rest or num_bytes // BLOCK > max(records) + 1:
        what = f"{num_bytes} bytes from a block of zeros on, where only a record's padding belongs"
        remedy = (
            "an incomplete download ends so: download it again, or pack it again if it was "
            "written in records of more than 10,240 bytes"
        )
        raise _refusal(shard, offset, what, remedy=remedy)


def _number(digits: bytes, shard: Shard | str, offset: int) -> int:
    if digits[0] == 0x80:  # GNU: base 256, for sizes of 8 GiB and more
        return int.from_bytes(digits[1:], "big")
    number = _octal(digits)  # none where base 256 tells of less than 0 or of 2**88 bytes
    if number is None:
        raise _refusal(shard, offset, "corrupt header: the size is no number")
    return number


def _octal(digits: bytes) -> int | None:
    match = _OCTAL.fullmatch(digits)
    return int(match[1] or b"0", 8) if match else None


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0":  # GNU headers keep times where ustar has the prefix
        prefix = header[345:500].split(b"\0", 1)[0]
        name = prefix + b"/" + name if prefix else name
    return _text(name)


def _text(name: bytes) -> str:
    # Names in another encoding stay distinct and printable, which surrogates are not.
    return name.decode("utf-8", errors="backslashreplace")


def _pax(data: bytes, shard: Shard | str, offset: int) -> dict[str, str]:
    """Parse records ``LENGTH KEY=VALUE`` that each end in a newline; keep what matters."""
    records: dict[str, str] = {}
    position = 0
    if data[:1] != b"\0":  # some writers pad records by zeros, but there must be one
        data = data.rstrip(b"\0")
    while position < len(data):
        match = _PAX_RECORD.match(data, position)
        end = position + int(match[1]) if match else 0
        if not match or end <= match.end() - 1 or end > len(data) or data[end - 1 : end] != b"\n":
            raise _refusal(shard, offset + position, "corrupt pax header")
        key, value = match[2].decode("ascii", "replace"), data[match.end() : end - 1]
        if key == "size" and not _DECIMAL.fullmatch(value):
            raise _refusal(shard, offset + position, "corrupt pax header: the size is no number")
        if key in _PAX_KEYS:
            records[key] = _text(value)
        elif key.startswith(_PAX_SPARSE):
            records[_PAX_SPARSE] = ""
        position = end
    return records
