"""The attempts of a run: each start, each end and what the job made of it, a line each.

`attempts.jsonl` lies in the run folder. The training process appends ``start`` and ``end``, the
job script's last command (`mmlight.runs.slurm.after_srun`) appends ``requeued``, ``resubmitted`` or
``gave up``. A start without an end was killed.
"""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmlight.files import append_line, json_objects, plain

ATTEMPTS = "attempts.jsonl"
Event = Literal["start", "end", "requeued", "resubmitted", "gave up"]
_HAND_ONS = ("requeued", "resubmitted")


@dataclass(frozen=True)
class Attempts:
    """What happened to a run so far.

    Attributes:
        events: as they were appended; each has at least `event` and `time` (seconds since 1970).
    """

    events: tuple[dict[str, Any], ...]

    @property
    def restarts(self) -> int:
        """How often the run was started again."""
        return max(0, sum(e["event"] == "start" for e in self.events) - 1)

    @property
    def step(self) -> int | None:
        """The step at the last start or end; None before the first start."""
        steps = [e["step"] for e in self.events if e["event"] in ("start", "end") and "step" in e]
        return int(steps[-1]) if steps else None

    @property
    def hand_ons(self) -> tuple[dict[str, Any], ...]:
        """Each time that the job was requeued, or that a job was submitted in its place."""
        return tuple(e for e in self.events if e["event"] in _HAND_ONS)

    @property
    def since_given_up(self) -> "Attempts":
        """What came after the run was last given up: whoever starts it again gives it a chance."""
        ends = [n for n, e in enumerate(self.events, 1) if e["event"] == "gave up"]
        return Attempts(self.events[ends[-1] :]) if ends else self

    @property
    def finished(self) -> bool:
        """Whether the last attempt did all that it should."""
        last = self.events[-1] if self.events else {}
        return last.get("event") == "end" and last.get("reason") == "finished"

    @property
    def problem(self) -> str | None:
        """Why the run has stopped: it failed or the job gave up; None where it goes on."""
        last = self.events[-1] if self.events else {}
        reason = str(last.get("reason", ""))
        failed = last.get("event") == "end" and reason.startswith("failed")
        return reason if failed or last.get("event") == "gave up" else None


def append_event(run: Path, event: Event, **fields: Any) -> None:
    """Append one line; it is on the disk when this returns.

    Args:
        run: the run's folder.
        event: what happened.
        fields: what else to note: `step`, `reason`, `hand_on`, `job`, ...
    """
    run.mkdir(parents=True, exist_ok=True)
    line = json.dumps(plain({"event": event, "time": round(time.time(), 3), **fields}))
    append_line(run / ATTEMPTS, line, sync=True)


def read_attempts(run: Path) -> Attempts:
    """Return what happened to a run; a line cut short is passed over."""
    path = run / ATTEMPTS
    if not path.exists():
        return Attempts(())
    return attempts_in(path.read_text(errors="replace"))


def attempts_in(text: str) -> Attempts:
    """Return what lines of events tell; those that cannot be read are passed over."""
    found = json_objects(text.split("\n"))
    return Attempts(tuple(event for event in found if _is_event(event)))


def _is_event(found: dict[str, Any]) -> bool:
    numbers = [found.get(key, 0) for key in ("step", "stuck", "time", "restart")]
    return isinstance(found.get("event"), str) and all(
        isinstance(number, int | float) and math.isfinite(number) for number in numbers
    )
