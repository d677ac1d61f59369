"""What wandb's SDK leaves on disk of a run: a segment (``run-ID.wandb``) for each attempt."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

_HEADER, _BLOCK, _PART_HEADER = 7, 32768, 7
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass(frozen=True)
class Segment:
    """What one process of a run left on disk.

    Attributes:
        records: its serialised records, as far as they are whole.
        size: bytes up to the end of the last of them.
    """

    records: list[bytes]
    size: int


def count_rows(folder: Path, *, run_id: str) -> int:
    """Return how many rows of history the segments of a run hold, one segment for each attempt.

    A segment whose process was killed ends with the last row that had reached the disk.

    Args:
        folder: the folder with ``offline-run-*`` and ``run-*`` in it.
        run_id: the run's id in W&B.
    """
    return sum(_count(read_segment(path)) for path in _segments(folder, run_id))


def mend(folder: Path, *, run_id: str) -> None:
    """Cut a record that a killed process began off each segment; remove those without any row.

    ``wandb sync`` stops at a segment that ends with half a record, or that a kill left empty, and
    does not send those after it. For the arguments see `count_rows`.
    """
    for path in _segments(folder, run_id):
        segment = read_segment(path)
        if not _count(segment):
            shutil.rmtree(path.parent)
        elif segment.size < path.stat().st_size:
            os.truncate(path, segment.size)


def mark_sent(folder: Path, *, run_id: str) -> None:
    """Mark the segments that earlier processes kept offline, so that ``wandb sync`` skips them.

    For the arguments see `count_rows`.
    """
    for path in folder.glob(f"offline-run-*/run-{run_id}.wandb"):
        path.with_suffix(".wandb.synced").touch()


def read_segment(path: Path) -> Segment:
    """Read a segment.

    The file is a LevelDB log: blocks of 32 KiB of parts (checksum, length, kind, content).
    """
    data = path.read_bytes()
    place = end = _HEADER
    record, records = b"", []
    while place + _PART_HEADER <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _PART_HEADER:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        part = data[place + _PART_HEADER : place + _PART_HEADER + length]
        if len(part) < length or kind not in (_WHOLE, _FIRST, _MIDDLE, _LAST):
            break
        place += _PART_HEADER + length
        record = part if kind in (_WHOLE, _FIRST) else record + part
        if kind in (_WHOLE, _LAST):
            records.append(record)
            end = place
    return Segment(records, min(end, len(data)))


def _segments(folder: Path, run_id: str) -> list[Path]:
    return sorted(folder.glob(f"*run-*/run-{run_id}.wandb"))


def _count(segment: Segment) -> int:
    from wandb.proto import wandb_internal_pb2 as messages

    count = 0
    for data in segment.records:
        record = messages.Record()  # type: ignore[attr-defined]
        record.ParseFromString(data)
        count += record.WhichOneof("record_type") == "history"
    return count
