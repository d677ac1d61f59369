"""What came out of a run: the best value of each metric, and how fast it was."""

from collections.abc import Mapping
from statistics import median
from typing import Any, Literal

from mmlight.runs.run.metrics_log import AXES
from mmlight.scores import is_beside, is_loss, known_direction

SAMPLES_PER_S = "train/samples_per_s"


def best_values(
    rows: list[dict[str, Any]], *, known: Mapping[str, Literal["min", "max"]] | None = None
) -> dict[str, dict[str, float]]:
    """Return the best `value` of each score, and the first `step` at which it was reached.

    Scores are evaluation metrics and the training loss.
    NaN is never best, and what is neither better small nor better large has no best.

    Args:
        rows: as `mmlight.runs.run.metrics_log.read_rows` gives them.
        known: the direction of metrics whose names do not say it.
    """
    directions = {
        name: way
        for name in dict.fromkeys(name for row in rows for name in row)
        if (way := (known_direction(name) if _is_score(name) else None) or (known or {}).get(name))
    }
    best: dict[str, dict[str, float]] = {}
    for row in rows:
        for name in row.keys() & directions.keys():
            value = float(row[name])
            sign = 1 if directions[name] == "max" else -1
            if value == value and (name not in best or sign * value > sign * best[name]["value"]):
                best[name] = {"value": value, "step": row["step"]}
    return {name: best[name] for name in directions if name in best}


def typical_samples_per_s(rows: list[dict[str, Any]]) -> float | None:
    """Return the median of the logged training speed, or None where none was logged.

    Args:
        rows: as `mmlight.runs.run.metrics_log.read_rows` gives them.
    """
    speeds = [float(row[SAMPLES_PER_S]) for row in rows if SAMPLES_PER_S in row]
    return median(speeds) if speeds else None


def _is_score(name: str) -> bool:
    if name in AXES or "/" not in name or is_beside(name) or "/explain/" in name:
        return False
    return not name.startswith("train/") or is_loss(name)
