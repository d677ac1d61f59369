"""Results as they are kept: a file for each model, set and task."""

from dataclasses import asdict, dataclass
from typing import Any

from mmlight.files import read_json, write_json
from mmlight.metrics.bootstrap import Score
from mmlight.suites.job import How, Job


@dataclass(frozen=True)
class Result:
    """A task's scores of one model on one set.

    Attributes:
        model: its name.
        set: its name.
        task: its name.
        num_samples: that were scored.
        num_bad: that could not be read.
        scores: by name.
        details: what else is told of it.
    """

    model: str
    set: str
    task: str
    num_samples: int
    num_bad: int
    scores: dict[str, Score]
    details: dict[str, Any]


def read_result(job: Job, task: str, how: How) -> Result | None:
    """Return what is kept of a task; None where it is of another content, or there is nothing."""
    kept = read_json(job.path(task, how))
    if kept is None or kept.pop("key", None) != job.key(task):
        return None
    try:
        scores = {name: Score(**values) for name, values in kept.pop("scores").items()}
        return Result(**kept, scores=scores)
    except (TypeError, KeyError, AttributeError):
        return None


def write_result(result: Result, job: Job, how: How) -> None:
    """Keep a result, under the hash of all that it depends on."""
    path, key = job.path(result.task, how), job.key(result.task)
    write_json(path, {"key": key, **asdict(result)})
