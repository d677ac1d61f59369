"""What is known of a metric from its name: whether less of it is better, and how it is shown.

Everyone who chooses by a metric, or shows one, asks here (no torch).
"""

import re
from collections.abc import Iterable, Mapping
from statistics import mean
from typing import Any, Literal

from mmlight.errors import UserError, nearest

Direction = Literal["min", "max"]


_SMALL_SHARES = ("wer", "cer")
_LARGE_SHARES = (
    *("recall", "accuracy", "precision", "f1", "match", "map", "ap", "ap50", "ap75"),
    *("bleu", "rouge", "chrf"),
)
_SHARES = frozenset((*_SMALL_SHARES, *_LARGE_SHARES, "share", "calibration"))
_SMALL = ("loss", "rank", "error", "perplexity", "deletion", "mae", "mse", "rmse", *_SMALL_SHARES)
# Whole words: "loss" is in "glossary", "wer" in "lower", "cer" in "certainty". The first that a
# name has decides the direction: "mean_reciprocal_rank" is not a rank.
_BETTER: dict[str, Direction] = {
    "reciprocal": "max",
    **dict.fromkeys(_SMALL, "min"),
    **dict.fromkeys(("r2", "spearman", "insertion", "cider", *_LARGE_SHARES), "max"),
}
# A number of these is neither good nor bad.
_UNITS = frozenset(("ms", "s", "mb", "gb", "bytes", "share", "count", "num"))
# What people compare a task's runs by: labels, several labels, entities, words, boxes, numbers,
# captions, hidden tokens.
MAIN_SCORES = (
    "accuracy",
    "mean_average_precision",
    "f1",
    "wer",
    "map",
    "mae",
    "cider",
    "masked_accuracy",
)
# The first that a run has is what it is known by, of a validation rather than of a test.
CANDIDATES = tuple(
    f"{stage}/{score}"
    for score in ("recall_at_1", *MAIN_SCORES, "loss")
    for stage in ("val", "test")
)
_BESIDE = frozenset(("chance", "num", "samples"))


def known_direction(name: str) -> Direction | None:
    """Return whether a metric is better small or large; None where its name does not say.

    Args:
        name: such as ``val/image_to_text/median_rank``. What stands behind the last slash counts,
            then what stands before: ``train/loss/image-text``.
    """
    word = _deciding_word(name)
    return _BETTER[word] if word else None


def is_loss(name: str) -> bool:
    """Return whether a metric is a loss, rather than the time that it takes: ``train/loss_ms``."""
    return _deciding_word(name) == "loss"


def is_beside(name: str) -> bool:
    """Return whether a value only stands beside scores: chance, a number of samples, a speed."""
    return any(_BESIDE & _words(part) for part in name.split("/"))


def is_headline(name: str) -> bool:
    """Return whether a metric is among the few that are said of an evaluation as a whole."""
    score = name.partition("/")[2]
    last = score.rpartition("/")[2]
    if last in ("loss", "recall_at_1"):
        return True
    return score in MAIN_SCORES or ("zero_shot/" in score and last.endswith("accuracy_at_1"))


def _words(part: str) -> set[str]:
    return set(re.split(r"[_-]", part))


def _deciding_word(name: str) -> str | None:
    for part in reversed(name.split("/")):
        words = _words(part)
        if words & _UNITS:
            return None
        if found := next(filter(words.__contains__, _BETTER), None):
            return found
    return None


def misspelled(name: str) -> str:
    """Return a hint at the known word that a metric's name may have been meant to end in."""
    stage, slash, word = name.rpartition("/")
    return nearest(word, sorted(_BETTER)).replace("'", f"'{stage}{slash}", 1)


def direction(name: str, *, modes: Iterable[tuple[Any, Any]] = ()) -> Direction:
    """Return the same for tables and pictures, which show an unknown metric's largest first.

    Args:
        name: the metric.
        modes: `checkpoint.monitor` and `checkpoint.monitor_mode` of the runs that are shown.
    """
    if known := known_direction(name):
        return known
    return "min" if (name, "min") in set(modes) else "max"


def direction_of_class(
    monitor: str | None, directions: Mapping[str, Direction]
) -> Direction | None:
    """Return which way a monitored metric is better, as its class says it; None: it does not.

    Args:
        monitor: the metric, such as ``val/explained``.
        directions: what classes say, by score without its stage.
    """
    return directions.get(monitor.partition("/")[2]) if monitor else None


def chosen_direction(name: str, *, given: Any = None, remedy: str) -> Direction:
    """Return the direction by which something is chosen, or stopped.

    Args:
        name: the metric.
        given: what the user says; None leaves it to the name.
        remedy: what would work, such as ``set checkpoint.monitor_mode to max or min``.

    Raises:
        UserError: nobody says it, and the name does not either.
    """
    found: Direction | None = given or known_direction(name)
    if found is None:
        raise UserError(
            f"whether a larger or a smaller '{name}' is better is not known from its name"
            f"{misspelled(name)}; {remedy}"
        )
    return found


def is_share(name: str) -> bool:
    """Return whether a metric is a share of something, which people read in percent."""
    return not _SHARES.isdisjoint(_words(name.rpartition("/")[2]))


def format_value(name: str, value: float) -> str:
    """Return a metric's value as people read it: shares in percent, others with four digits."""
    return f"{100 * value:.1f} %" if is_share(name) else f"{value:.4g}"


def on_axis(name: str) -> tuple[str, float]:
    """Return how an axis of a metric is labelled, and what its values are multiplied by."""
    return (f"{name} (%)", 100.0) if is_share(name) else (name, 1.0)


def main_metric(names: Iterable[str], *, monitor: str | None) -> str | None:
    """Return the metric that a run is known by, wherever runs are shown; None without any yet.

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


def chosen_metric(scores: Mapping[str, float], *, asked: str | None) -> str:
    """Return the score that one evaluation is judged by.

    Args:
        scores: by name, without their stage.
        asked: what the user asks for; None takes the first of `MAIN_SCORES` that is there.

    Raises:
        UserError: there is no such metric.
    """
    if asked is not None and asked not in scores:
        raise UserError(
            f"--metric: there is no metric '{asked}'{nearest(asked, scores)}; there is "
            f"{', '.join(sorted(scores))}"
        )
    found = asked or next((name for name in MAIN_SCORES if name in scores), None)
    if found is None:
        raise UserError(f"name one with --metric: {', '.join(sorted(scores))}")
    return found


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
