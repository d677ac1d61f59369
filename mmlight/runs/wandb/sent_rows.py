"""Which values of a run another place has been given, over all of the run's restarts."""

import json
from collections.abc import Iterable
from pathlib import Path

from mmlight.files import append_line, warn_once, write_text


class SentRows:
    """A list of the rows that were sent, line n of which names row n of the other place's history.

    A killed process may have sent rows that never arrived, so the other place is asked how many
    it has (`keep`). A resumed training makes some rows again that did arrive (`missing`).

    Args:
        path: the file, ``[step, [names]]`` in each line; continued where it exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._arrived: dict[int, set[str]] = {}

    def keep(self, num_rows: int) -> None:
        """Forget all rows but the first, which are those that arrived."""
        text = self._path.read_text(errors="replace") if self._path.exists() else ""
        # What follows the last line end is empty, or a row that a killed process began.
        lines = text.split("\n")[:-1][:num_rows]
        kept = "".join(line + "\n" for line in lines)
        if kept != text:
            write_text(self._path, kept)
        self._arrived = {}
        for line in lines:
            try:
                step, names = json.loads(line)
                self._arrived.setdefault(step, set()).update(names)
            except (ValueError, TypeError):  # its row did arrive; nobody can say which it was
                warn_once(f"{self._path}: a line cannot be read, and is left out")

    def missing(self, step: int, names: Iterable[str]) -> list[str]:
        """Return those of `names` that no earlier process sent for `step`."""
        arrived = self._arrived.get(step, set())
        return [name for name in names if name not in arrived]

    def add(self, step: int, names: Iterable[str]) -> None:
        """Note a row that is about to be sent; the line is with the system when this returns."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        append_line(self._path, json.dumps([step, list(names)]))
