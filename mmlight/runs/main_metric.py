"""The metric that a run is known by: the same one wherever runs are shown."""

from collections.abc import Iterable, Mapping
from statistics import mean

from mmlight.runs.run.summary import MAIN_SCORES

# The first that a run has, of a validation rather than of a test.
_FIRST = ("recall_at_1", *MAIN_SCORES, "loss")
CANDIDATES = tuple(f"{stage}/{score}" for score in _FIRST for stage in ("val", "test"))


def main_metric(names: Iterable[str], *, monitor: str | None) -> str | None:
    """Return the metric that a run is known by; None where it has none yet.

    It is what its best checkpoint is chosen by, else the first of `CANDIDATES`, else the training
    loss.

    Args:
        names: the metrics that it has.
        monitor: its `checkpoint.monitor`.
    """
    known = dict.fromkeys(names)
    wanted = [*([monitor] if monitor else []), *CANDIDATES, "train/loss"]
    # Seldom any: looking for each score among all names takes most of the time of `mmlight ps`.
    of_pairs = [name for name in known if name.count("/") == 2]
    return next((m for m in wanted if m in known or (of_pairs and parts(m, of_pairs))), None)


def parts(metric: str, names: Iterable[str]) -> list[str]:
    """Return the logged metrics that one stands for: itself, or those of all pairs.

    Args:
        metric: such as ``val/loss``, or ``val/recall_at_1`` where recall is logged for each pair of
            modalities.
        names: what is logged.
    """
    known = names if isinstance(names, Mapping) else list(names)
    if metric in known:
        return [metric]
    stage, _, score = metric.partition("/")
    begin, end = f"{stage}/", f"/{score}"
    return [n for n in known if n.startswith(begin) and n.endswith(end) and n.count("/") == 2]


def value_of(metric: str, values: Mapping[str, float]) -> float | None:
    """Return a metric's value, the mean over pairs where there are several; None without any.

    Args:
        metric: see `parts`.
        values: by name.
    """
    if metric in values:
        return values[metric]
    found = parts(metric, values)
    return mean(values[name] for name in found) if found else None
