"""What came out of a run: the final and the best value of each metric."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from mmlight.runs.run.metrics_log import AXES
from mmlight.scores import is_beside, is_loss, known_direction

SAMPLES_PER_S = "train/samples_per_s"


@dataclass(frozen=True)
class Best:
    """The best value of a metric.

    Attributes:
        value: the value.
        step: the first step at which it was reached.
    """

    value: float
    step: int


def final_values(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the last value of each metric.

    Args:
        rows: as `mmlight.runs.run.metrics_log.read_rows` gives them.
    """
    final: dict[str, float] = {}
    for row in rows:
        final.update({name: float(value) for name, value in row.items() if name not in AXES})
    return final


def best_values(
    rows: list[dict[str, Any]], *, known: Mapping[str, Literal["min", "max"]] | None = None
) -> dict[str, Best]:
    """Return the best value of each score: evaluation metrics and the training loss.

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
    best: dict[str, Best] = {}
    for row in rows:
        for name in row.keys() & directions.keys():
            value = float(row[name])
            sign = 1 if directions[name] == "max" else -1
            if value == value and (name not in best or sign * value > sign * best[name].value):
                best[name] = Best(value=value, step=row["step"])
    return {name: best[name] for name in directions if name in best}


def typical_samples_per_s(rows: list[dict[str, Any]]) -> float | None:
    """Return the median of the logged training speed, or None where none was logged.

    Args:
        rows: as `mmlight.runs.run.metrics_log.read_rows` gives them.
    """
    speeds = [float(row[SAMPLES_PER_S]) for row in rows if SAMPLES_PER_S in row]
    return median(speeds) if speeds else None


@dataclass(frozen=True)
class PairScores:
    """Retrieval in one direction.

    Attributes:
        stage: ``val`` or ``test``.
        query: the modality that asks.
        gallery: the modality that is searched.
        scores: by metric name without its prefix, such as ``recall_at_1``.
    """

    stage: str
    query: str
    gallery: str
    scores: dict[str, float]


def retrieval_scores(final: Mapping[str, float]) -> list[PairScores]:
    """Return the final retrieval metrics, one entry per stage and ordered pair of modalities.

    Args:
        final: values by name; those of the form ``stage/a_to_b/metric`` are taken.
    """
    pairs: dict[tuple[str, str, str], dict[str, float]] = {}
    for name, value in final.items():
        parts = name.split("/")
        if len(parts) == 3 and "_to_" in parts[1]:
            query, gallery = parts[1].split("_to_", 1)
            pairs.setdefault((parts[0], query, gallery), {})[parts[2]] = value
    return [PairScores(*key, scores) for key, scores in pairs.items()]


@dataclass(frozen=True)
class ExplainScores:
    """How true one method's explanations are to the model.

    Attributes:
        stage: ``val`` or ``test``.
        modality: what was explained.
        method: its name; `random` is a random order of the parts.
        deletion_auc: area under the deletion curve; lower is better.
        insertion_auc: area under the insertion curve; higher is better.
        gap: the part by which attributions miss the score's difference, where that has a meaning.
    """

    stage: str
    modality: str
    method: str
    deletion_auc: float
    insertion_auc: float
    gap: float | None


def explain_scores(final: Mapping[str, float]) -> list[ExplainScores]:
    """Return what the metrics ``stage/explain/modality_method_...`` say, one entry per method.

    Args:
        final: values by name.
    """
    found = []
    for name, value in final.items():
        stage, explain, rest = [*name.split("/"), "", ""][:3]
        if explain != "explain" or not rest.endswith("_deletion_auc"):
            continue
        prefix = name.removesuffix("_deletion_auc")
        modality, method = rest.removesuffix("_deletion_auc").split("_", 1)
        insertion, gap = final[f"{prefix}_insertion_auc"], final.get(f"{prefix}_gap")
        found.append(ExplainScores(stage, modality, method, value, insertion, gap))
    return found


def other_scores(final: Mapping[str, float]) -> dict[str, float]:
    """Return the final evaluation metrics that have no table of their own: losses, accuracies.

    Args:
        final: values by name.
    """
    return {
        name: value
        for name, value in final.items()
        if not name.startswith("train/")
        and "/" in name
        and "_to_" not in name
        and "/explain/" not in name
        and not name.startswith("robustness/")
    }


def _is_score(name: str) -> bool:
    if name in AXES or "/" not in name or is_beside(name) or "/explain/" in name:
        return False
    return not name.startswith("train/") or is_loss(name)
