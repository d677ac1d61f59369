"""A metric over the steps of several runs, as one curve with its spread over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from mmlight.runs.show.compare.run import ComparedRun
from mmlight.runs.show.compare.settings import Setting


@dataclass(frozen=True)
class Curve:
    """Means over the runs of a setting, at the steps that all of them logged.

    Attributes:
        steps: optimiser steps.
        samples: training samples seen, the mean over runs at each step.
        hours: of training, the mean over runs at each step.
        means: of the metric.
        deviations: standard deviations of the metric; None for a single run.
    """

    steps: tuple[int, ...]
    samples: tuple[float, ...]
    hours: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...] | None


def curve_of(setting: Setting, metric: str) -> Curve | None:
    """Return the curve of a setting; None where nothing was logged that all of its runs share.

    Args:
        setting: with the runs.
        metric: its name.
    """
    runs = [by_step for run in setting.counted if (by_step := _by_step(run, metric))]
    if not runs:
        return None
    steps = sorted(set(runs[0]).intersection(*runs[1:]))
    if not steps:
        return None
    points = [[run[step] for run in runs] for step in steps]
    return Curve(
        steps=tuple(steps),
        samples=tuple(mean(samples for samples, _, _ in found) for found in points),
        hours=tuple(mean(hours for _, hours, _ in found) for found in points),
        means=tuple(mean(value for _, _, value in found) for found in points),
        deviations=tuple(stdev(value for _, _, value in found) for found in points)
        if len(runs) > 1
        else None,
    )


def pictured(settings: Sequence[Setting], metric: str) -> dict[int, Curve]:
    """Return the curves of a metric by the setting's number, as far as there are any."""
    found = {setting.number: curve_of(setting, metric) for setting in settings}
    return {number: curve for number, curve in found.items() if curve is not None}


def _by_step(run: ComparedRun, metric: str) -> dict[int, tuple[float, float, float]]:
    return {
        int(row["step"]): (float(row["samples"]), float(row["wall_s"]) / 3600, value)
        for row, value in run.curve(metric)
        if value == value
    }
