"""The best checkpoint of a run, and the score that it is the best by."""

from dataclasses import dataclass
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.run.config_text import look_up
from mmlight.runs.run.folder import RunFolder, is_complete, step_of
from mmlight.runs.run.metrics_log import read_rows
from mmlight.scores import direction, format_value


@dataclass(frozen=True)
class BestCheckpoint:
    """A checkpoint that `checkpoint.monitor` chose.

    Attributes:
        path: the checkpoint.
        metric: what it was chosen by.
        value: that metric at its step; None where the log lacks it.
    """

    path: Path
    metric: str
    value: float | None

    @property
    def told(self) -> str:
        """The checkpoint and its score, for people."""
        scored = "" if self.value is None else f" {format_value(self.metric, self.value)}"
        return f"{self.path.name}, the best by {self.metric}{scored}"


def best_checkpoint(run: RunFolder, *, key: str = "--ckpt_path best") -> BestCheckpoint:
    """Return a run's best checkpoint.

    Args:
        run: the run.
        key: what asked for it, for messages.

    Raises:
        UserError: it keeps none, or has none yet.
    """
    text = run.config.read_text(errors="replace") if run.config.exists() else ""
    metric = look_up(text, "checkpoint.monitor")
    if not isinstance(metric, str):
        raise UserError(
            f"{key}: {run.name}/{run.id} keeps no best checkpoint, since its checkpoint.monitor is "
            "not set (--checkpoint.monitor val/accuracy, when it is trained); 'last' takes the "
            "newest"
        )
    paths = [path for path in run.checkpoints_newest_first() if path.name.startswith("best-")]
    whole = [path for path in paths if is_complete(path)]
    if not whole:
        raise UserError(
            f"{key}: {run.name}/{run.id} has no complete best checkpoint: no validation gave "
            f"{metric} yet"
        )
    way = direction(metric, modes=[(metric, look_up(text, "checkpoint.monitor_mode"))])
    sign = 1 if way == "max" else -1
    values = {
        row["step"]: float(row[metric]) for row in read_rows(run.metrics_jsonl) if metric in row
    }

    def goodness(path: Path) -> tuple[bool, float]:
        value = values.get(step_of(path), float("nan"))
        return (value == value, sign * value)

    best = max(whole, key=goodness)  # of equal ones the newest
    return BestCheckpoint(best, metric, values.get(step_of(best)))
