"""The seal of the shards that we write: a checksum over their members, at their beginning.

It is a comment in a global pax header, which every reader of tar passes over. It travels with the
file, unlike a list of checksums beside it, and is not unpacked with the members, so that it does
not get into a tar that somebody packs again. A copy in the last block of the padding, which nobody
reads either, tells that the beginning is lost. A shard is sealed when all of it is written.
"""

import hashlib
import io
import os
import re
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from mmlight.data.shards.storage import OpenShard, Shard
from mmlight.data.shards.tar import BLOCK, SEAL, SEAL_RECORD
from mmlight.errors import UserError

_RECORD = re.compile(re.escape(SEAL_RECORD) + rb"([0-9a-f]{64})\n\0*")
# The checksum of a shard that is not whole yet.
_OPEN = "0" * 64
REMEDY = "copy or download it again, or pack it again if it was changed on purpose"


class SealedWriter:
    """Writes a shard that is not there yet: equal members give equal bytes."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "xb")
        self._tar = tarfile.open(
            fileobj=self._file,
            mode="w",
            format=tarfile.PAX_FORMAT,
            pax_headers={"comment": f"{SEAL}:{_OPEN}"},  # as long as what takes its place
        )
        self._members: list[tuple[str, int, int]] = []

    def __enter__(self) -> "SealedWriter":
        return self

    def add(self, name: str, data: bytes) -> None:
        """Add a member, without owner and time."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))
        self._members.append((name, len(data), zlib.crc32(data)))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Seal the shard, unless something went wrong."""
        with self._file:
            if kind is None:
                end = self._file.tell()
                self._tar.close()
                size = self._file.tell()
                if size - end < 3 * BLOCK:  # no room behind the two blocks that end a tar
                    size += tarfile.RECORDSIZE
                header, record = _blocks(digest(self._members))
                self._file.seek(size - BLOCK)
                self._file.write(record)
                self._file.seek(0)
                self._file.write(header + record)
                self._file.flush()
                os.fsync(self._file.fileno())


def digest(members: Iterable[tuple[str, int, int]]) -> str:
    """Return the checksum over names, sizes and crc32 of members."""
    lines = sorted(f"{crc32:08x} {size} {name}\n" for name, size, crc32 in members)
    return hashlib.sha256("".join(lines).encode("utf-8", "backslashreplace")).hexdigest()


def read(shard: OpenShard) -> str | None:
    """Return the checksum that a shard bears; None for a shard that others wrote.

    Raises:
        UserError: it is damaged.
    """
    num_bytes = shard.state().num_bytes
    header, record = shard.read_some(0, BLOCK), shard.read_some(BLOCK, BLOCK)
    last = shard.read_some(max(0, num_bytes - BLOCK), BLOCK)
    return of_blocks(shard.shard, header, record, last)


def of_blocks(shard: Shard | str, header: bytes, record: bytes, last: bytes) -> str | None:
    """Return the checksum that a shard's first two blocks and its last one bear; see `read`."""
    if match := _RECORD.fullmatch(record):
        return match[1].decode()
    # Three marks, so that damage to one doesn't make this pass for a shard that others wrote.
    if header.startswith(SEAL.encode() + b"\0") or SEAL_RECORD in record or SEAL_RECORD in last:
        raise UserError(f"shard {shard}: the checksum at its beginning is damaged; {REMEDY}")
    return None


def broken(shard: Shard | str) -> UserError:
    """Return the error of a shard whose members are not those that it was sealed with."""
    return UserError(
        f"shard {shard}: its members are not those that were packed (the checksum at its "
        f"beginning is another); {REMEDY}"
    )


def _blocks(checksum: str) -> tuple[bytes, bytes]:
    record = SEAL_RECORD + checksum.encode() + b"\n"
    info = tarfile.TarInfo(SEAL)
    info.type, info.size = tarfile.XGLTYPE, len(record)
    return info.tobuf(tarfile.USTAR_FORMAT), record.ljust(BLOCK, b"\0")
