"""The file that holds one shard's index: its place, its format, how it is written and read.

It is an Arrow file with one row per sample and a summary in its metadata, so that asking what is
in a shard reads a few kilobytes. Nothing in it is ever unpickled.
"""

import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmlight.errors import UserError

FORMAT = 1
_METADATA_KEY = b"mmlight"


@dataclass(frozen=True)
class Rows:
    """The samples of one shard; members of sample `i` are entries ``start[i]:start[i + 1]``.

    Attributes:
        keys: sample keys, an Arrow array of strings.
        extensions: names that `extension` numbers.
        start: int32, one more than samples.
        extension: int32 per member, a place in `extensions`.
        offset: int64 per member, where its data begin in the shard.
        size: int64 per member, bytes.
        duration_s: float32 per sample, of its first sound; nan without one.
        width: int32 per sample, of its first image in pixels; 0 without one.
        height: likewise.
        num_bytes: memory that all this takes.
    """

    keys: Any
    extensions: tuple[str, ...]
    start: np.ndarray
    extension: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    duration_s: np.ndarray
    width: np.ndarray
    height: np.ndarray
    num_bytes: int


@dataclass(frozen=True)
class ShardIndex:
    """Summary of one shard's index; `rows` reads the rest from disk.

    Attributes:
        path: the shard.
        index_path: its index file.
        num_samples: samples in the shard.
        num_bytes: the shard's size.
        mtime_ns: the shard's modification time when it was indexed.
        sha256: of the shard's bytes.
        extensions: how many samples have a member with each extension, in order of appearance.
        largest_member: bytes of the largest member.
        num_ignored: members that belong to no sample (hidden, without extension, metadata).
    """

    path: Path
    index_path: Path
    num_samples: int
    num_bytes: int
    mtime_ns: int
    sha256: str
    extensions: dict[str, int]
    largest_member: int
    num_ignored: int

    def rows(self) -> Rows:
        """Read the index of every sample.

        Raises:
            UserError: the index is gone, damaged, or that of another content by now.
        """
        try:
            with pa.OSFile(str(self.index_path)) as file, pa.ipc.open_file(file) as reader:
                batch, summary = reader.get_batch(0), _parse(reader.schema)
            batch.validate(full=True)  # a damaged file must not lead reads outside its buffers
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            what = f"index {self.index_path} can't be read ({error}); "
            raise UserError(what + "delete it and start the run again") from error
        if summary["sha256"] != self.sha256:
            raise UserError(f"shard {self.path} changed while it was in use; start the run again")
        members = batch["members"]
        flat = members.values
        return Rows(
            keys=batch["key"],
            extensions=tuple(self.extensions),
            start=members.offsets.to_numpy(),
            extension=flat.field("extension").to_numpy(),
            offset=flat.field("offset").to_numpy(),
            size=flat.field("size").to_numpy(),
            duration_s=batch["duration_s"].to_numpy(),
            width=batch["width"].to_numpy(),
            height=batch["height"].to_numpy(),
            num_bytes=batch.nbytes,
        )


def places(shard: Path, *, cache_dir: Path | None) -> list[Path]:
    """Return where the index of a shard may lie, best first."""
    name = f"{shard.name}.index"
    absolute = os.fsencode(os.path.abspath(shard))
    unique = f"{hashlib.sha256(absolute).hexdigest()[:32]}-{name}"
    if everywhere := os.environ.get("MMLIGHT_INDEX_DIR"):
        return [Path(everywhere) / unique]
    cache_dir = cache_dir or Path.home() / ".cache" / "mmlight" / "index"
    return [shard.with_name(name), cache_dir / unique]


def load(shard: Path, *, cache_dir: Path | None = None) -> list[ShardIndex]:
    """Return the readable indexes of a shard, up to date or not, best place first."""
    found = []
    for place in places(shard, cache_dir=cache_dir):
        try:
            with pa.OSFile(str(place)) as file, pa.ipc.open_file(file) as reader:
                summary = _parse(reader.schema)
        except (OSError, ValueError, KeyError, pa.ArrowException):
            continue  # absent, damaged or of another format: it will be written anew
        del summary["format"]
        found.append(ShardIndex(path=shard, index_path=place, **summary))
    return found


def store(
    shard: Path, batch: pa.RecordBatch, summary: dict[str, Any], *, cache_dir: Path | None
) -> ShardIndex:
    """Write a shard's index beside it or, where that can't be done, into the cache folder."""
    metadata = {_METADATA_KEY: json.dumps(summary | {"format": FORMAT}).encode()}
    batch = batch.replace_schema_metadata(metadata)
    problems = []
    for place in places(shard, cache_dir=cache_dir):
        # By its mode too: root could write, but whoever took the right away meant it.
        if place.parent == shard.parent and not shard.parent.stat().st_mode & 0o222:
            problems.append(f"{place.parent}: read-only")
            continue
        try:
            if place.parent != shard.parent:
                place.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(place, batch)
        except OSError as error:  # a read-only folder or a full disk: the next place may do
            problems.append(f"{place.parent}: {error.strerror or error}")
        else:
            return ShardIndex(path=shard, index_path=place, **summary)
    raise UserError(
        f"the index of shard {shard} can't be stored ({'; '.join(problems)}); "
        "set MMLIGHT_INDEX_DIR to a writable folder"
    )


def _write_whole(place: Path, batch: pa.RecordBatch) -> None:
    """Put a file in place at once: others see the old one or the new one."""
    temporary = place.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            with pa.ipc.new_file(file, batch.schema) as writer:
                writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def _parse(schema: pa.Schema) -> dict[str, Any]:
    summary = json.loads((schema.metadata or {})[_METADATA_KEY])
    if summary["format"] != FORMAT:
        raise ValueError(f"format {summary['format']}")
    return summary
