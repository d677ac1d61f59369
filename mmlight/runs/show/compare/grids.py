"""What is compared, as tables: as people read it, and for CSV with all digits."""

from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter, methodcaller
from typing import Any

from mmlight.runs.show.compare.settings import Setting, Spread, as_text
from mmlight.runs.show.grid import Column, Grid
from mmlight.scores import format_value


def settings_grid(
    settings: Sequence[Setting], metrics: Sequence[str], *, most: int | None = None
) -> Grid:
    """Return a row for each setting, means and standard deviations over its seeds.

    Args:
        settings: in the order of the rows.
        metrics: by which they are compared.
        most: how many of the values that differ have columns; None: all.
    """
    names = list(settings[0].differs)[:most]
    columns: dict[str, Callable[[Setting], str]] = {"": lambda s: str(s.number)}
    columns["run"] = lambda s: s.name
    left = {"run", "code"}
    for place, metric in enumerate(metrics):
        columns[metric] = _spread_of(metric, "final")
        if place == 0:  # what they are known by, and what sets them apart; then the rest
            for name in names:
                columns.setdefault(name, partial(Setting.text, name=name))
                left |= set() if _are_numbers(settings, name) else {name}
    for metric in metrics:
        columns[f"best {metric}"] = _spread_of(metric, "best")
    columns["runs"] = _runs
    columns["samples"] = lambda s: _plain(s.spread(attrgetter("samples")))
    columns[_hours(settings)] = lambda s: _plain(s.spread(attrgetter("device_hours")))
    columns["samples/s"] = lambda s: _plain(s.spread(attrgetter("samples_per_s")))
    if "code" not in columns:
        columns["code"] = lambda s: ", ".join(dict.fromkeys(run.code for run in s.runs))
    rows = tuple(tuple(make(s) for make in columns.values()) for s in settings)
    return Grid(_columns(tuple(columns), left), rows, repeat=2)


def runs_grid(settings: Sequence[Setting], metrics: Sequence[str]) -> Grid:
    """Return a row for each run."""
    headings = ["setting", "run", "seed", "state", "steps"]
    for metric in metrics:
        headings += [metric, f"best {metric}"]
    headings += ["samples", _hours(settings), "samples/s", "code"]
    rows = []
    for setting in settings:
        for run in setting.runs:
            row = [str(setting.number), run.label, as_text(run.seed), run.state, f"{run.steps:,}"]
            for metric in metrics:
                row += [_value(metric, run.final(metric)), _value(metric, run.best(metric))]
            speed = run.samples_per_s
            row += [f"{run.samples:,}", f"{run.device_hours:.3g}"]
            row += ["-" if speed is None else f"{speed:,.0f}", run.code]
            rows.append(tuple(row))
    return Grid(_columns(headings, {"run", "state", "code"}), tuple(rows))


def settings_digits(settings: Sequence[Setting], metrics: Sequence[str]) -> Grid:
    """Return a row for each setting, every number with all of its digits."""
    lines = []
    for setting in settings:
        line: dict[str, Any] = {"setting": setting.number, **setting.differs}
        line["runs"] = len(setting.runs)
        line["finished"] = sum(run.is_finished for run in setting.runs)
        for metric in metrics:
            for kind in ("final", "best"):
                found = setting.spread(methodcaller(kind, metric))
                line |= {f"{metric} {kind} mean": found.mean, f"{metric} {kind} sd": found.sd}
        for name in ("samples", "device_hours", "samples_per_s"):
            line[name] = setting.spread(attrgetter(name)).mean
        line["commit"] = " ".join(dict.fromkeys(run.commit or "" for run in setting.runs))
        line["ids"] = " ".join(run.label for run in setting.runs)
        lines.append(line)
    return Grid.of_records(lines)


def runs_digits(settings: Sequence[Setting], metrics: Sequence[str]) -> Grid:
    """Return a row for each run, every number with all of its digits."""
    lines = []
    for setting in settings:
        for run in setting.runs:
            line: dict[str, Any] = {"setting": setting.number, "run": run.label, "seed": run.seed}
            line |= {"state": run.state, **setting.differs, "steps": run.steps}
            for metric in metrics:
                line |= {metric: run.final(metric), f"{metric} best": run.best(metric)}
            line |= {"samples": run.samples, "device_hours": run.device_hours}
            line |= {"samples_per_s": run.samples_per_s, "commit": run.commit}
            lines.append(line)
    return Grid.of_records(lines)


def _columns(names: Sequence[str], left: set[str]) -> tuple[Column, ...]:
    return tuple(Column(name, align="left" if name in left else "right") for name in names)


def _spread_of(metric: str, kind: str) -> Callable[[Setting], str]:
    return lambda setting: spread_text(metric, setting.spread(methodcaller(kind, metric)))


def spread_text(metric: str, found: Spread) -> str:
    """Return mean and standard deviation of a metric as people read them."""
    if found.mean is None:
        return "-"
    if found.sd is None:
        return format_value(metric, found.mean)
    whole, deviation = format_value(metric, found.mean), format_value(metric, found.sd)
    if whole.endswith(" %"):
        return f"{whole.removesuffix(' %')} ± {deviation}"
    return f"{whole} ± {found.sd:.2g}"


def _value(metric: str, value: float | None) -> str:
    return "-" if value is None else format_value(metric, value)


def _plain(found: Spread) -> str:
    if found.mean is None:
        return "-"
    return f"{found.mean:,.0f}" if found.mean >= 100 else f"{found.mean:.3g}"


def _runs(setting: Setting) -> str:
    finished = sum(run.is_finished for run in setting.runs)
    total = len(setting.runs)
    said = str(total) if finished == total else f"{finished} of {total}"
    seeds = len({str(run.seed) for run in setting.runs})
    # The same seed again says nothing of the spread over seeds.
    return said if seeds == total else f"{said}, {seeds} seed{'s' if seeds > 1 else ''}"


def _hours(settings: Sequence[Setting]) -> str:
    return "GPU-h" if all(run.uses_gpu for s in settings for run in s.runs) else "device-h"


def _are_numbers(settings: Sequence[Setting], name: str) -> bool:
    return all(isinstance(setting.differs[name], int | float | None) for setting in settings)
