"""Counts samples that could not be decoded, names them in a file, and stops past a limit."""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmlight.batch import BadSample
from mmlight.errors import UserError
from mmlight.files import append_line
from mmlight.terminal import note


class BadSamples:
    """What one rank knows of bad samples; each is counted once and named once in the file.

    Args:
        path: the file, ``bad_samples.jsonl``; ranks and restarts append to the same one, and a
            restart does not name a sample again.
        limit: most samples that cannot be decoded before the run stops; infinite for a prediction,
            which says of each sample what it has.
        limit_text: how the limit is explained to the user.
    """

    def __init__(self, path: Path, *, limit: float, limit_text: str) -> None:
        self.path = path
        self.limit = limit
        self.limit_text = limit_text
        self._seen: set[tuple[str, str]] = set()
        self._num_missing = 0
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        self._named = set(_names_in(text))

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, bad: Iterable[BadSample]) -> None:
        """Write new ones to the file, and say of the first that lacks what the model reads.

        Raises:
            UserError: there are more than the limit that cannot be decoded.
        """
        for sample in bad:
            name = (sample.shard, sample.key)
            if name in self._seen:
                continue
            self._seen.add(name)
            if name not in self._named:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                append_line(self.path, json.dumps(dataclasses.asdict(sample)))
            if sample.missing:
                self._num_missing += 1
                if self._num_missing == 1 and self.limit < math.inf:
                    note(
                        f"sample {sample.key} of {Path(sample.shard).name} has {sample.reason}, "
                        f"which is all that the model reads; such samples are left out and named "
                        f"in {self.path}"
                    )
            elif (unread := len(self._seen) - self._num_missing) > self.limit:
                raise UserError(
                    f"{unread} samples cannot be decoded, more than {self.limit_text}; "
                    f"the last: {sample.key} of {sample.shard} ({sample.member}: "
                    f"{sample.reason}); all are named in {self.path}. Repair the shards, or raise "
                    "data.max_bad_fraction"
                )


def _names_in(text: str) -> Iterator[tuple[str, str]]:
    """Yield shard and key of each line; what a killed process left of one is named again."""
    for line in text.splitlines():
        try:
            row = json.loads(line)
            yield str(row["shard"]), str(row["key"])
        except (ValueError, KeyError, TypeError, RecursionError):
            if line.strip():
                note(f"bad_samples.jsonl: passed over a line that cannot be read: {line[:60]}")
