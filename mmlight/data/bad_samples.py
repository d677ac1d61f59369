"""Counts samples that could not be decoded, names them in a file, and stops past a limit."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

from mmlight.batch import BadSample
from mmlight.errors import UserError


class BadSamples:
    """What one rank knows of bad samples; each is counted once and named once in the file.

    Args:
        path: the file, ``bad_samples.jsonl``; ranks and restarts append to the same one, and a
            restart does not name a sample again.
        limit: most bad samples before the run stops.
        limit_text: how the limit is explained to the user.
    """

    def __init__(self, path: Path, *, limit: float, limit_text: str) -> None:
        self.path = path
        self.limit = limit
        self.limit_text = limit_text
        self._seen: set[tuple[str, str]] = set()
        self._named = _names_in(path)

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, bad: Iterable[BadSample]) -> None:
        """Write new ones to the file.

        Raises:
            UserError: there are more than the limit.
        """
        for sample in bad:
            name = (sample.shard, sample.key)
            if name in self._seen:
                continue
            self._seen.add(name)
            if name not in self._named:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # One short write in append mode: lines of several ranks don't mix.
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(dataclasses.asdict(sample)) + "\n")
            if len(self._seen) > self.limit:
                raise UserError(
                    f"{len(self._seen)} samples cannot be decoded, more than {self.limit_text}; "
                    f"the last: {sample.key} of {sample.shard} ({sample.member}: "
                    f"{sample.reason}); all are named in {self.path}. Repair the shards, or raise "
                    "data.max_bad_fraction"
                )


def _names_in(path: Path) -> set[tuple[str, str]]:
    if not path.exists():
        return set()
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(row["shard"], row["key"]) for row in rows}
