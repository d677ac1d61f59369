"""Runs that differ only in seed are one setting; what sets the settings apart; means over seeds."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, stdev
from typing import Any

from mmlight.errors import UserError, nearest
from mmlight.files import plain
from mmlight.runs.plan.results import short_names
from mmlight.runs.show.compare.run import ComparedRun
from mmlight.scores import CANDIDATES, Direction, direction, is_loss, parts

NAME, CODE, DATA = "run", "code", "data"
_MAX_DEFAULTS = 3
_BOUNDARY = re.compile(r"[/ ,]")


@dataclass(frozen=True)
class Spread:
    """Values of several runs.

    Attributes:
        values: one for each run that has it.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """Their mean; None without any."""
        return mean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """Their standard deviation (of a sample: n - 1); None with fewer than two."""
        return stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Setting:
    """Runs that differ in nothing but their seeds.

    Attributes:
        number: from 1, in the order in which the runs were given.
        runs: all of them.
        differs: by short name, the values that set this setting apart from the others.
        shown: the same as people read them: short, and told apart from the others'.
    """

    number: int
    runs: tuple[ComparedRun, ...]
    differs: Mapping[str, Any]
    shown: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its first run, and how many others there are."""
        more = f" +{len(self.runs) - 1}" if len(self.runs) > 1 else ""
        return f"{self.runs[0].label}{more}"

    def text(self, name: str) -> str:
        """Return a value of `differs` as people read it."""
        return self.shown[name] if name in self.shown else as_text(self.differs[name])

    @property
    def counted(self) -> tuple[ComparedRun, ...]:
        """The finished runs, which means are taken over; where none has finished, all."""
        return tuple(run for run in self.runs if run.is_finished) or self.runs

    @property
    def label(self) -> str:
        """The values that set it apart, or its name where nothing does."""
        text = ", ".join(
            f"{name} {self.text(name)}" if name not in (NAME, CODE) else self.text(name)
            for name in self.differs
        )
        return text or self.runs[0].name

    def spread(self, value: Callable[[ComparedRun], float | None]) -> Spread:
        """Return a value of each counted run that has it; None and NaN are left out."""
        found = [value(run) for run in self.counted]
        return Spread(tuple(v for v in found if v is not None and v == v))


def group(runs: Sequence[ComparedRun], *, ignore: Sequence[str] = ()) -> list[Setting]:
    """Return the settings, in the order in which their first runs were given.

    Runs are of one setting where their configurations (but for seeds, the folder, and the number
    and kind of devices), their code and their data are equal.

    Args:
        runs: what is compared.
        ignore: what to pass over: dotted keys or what they begin with, `code` or `data`.
    """
    kept = [_identity(run, ignore) for run in runs]
    keys = list(dict.fromkeys(key for identity in kept for key in identity))
    groups: dict[str, list[int]] = {}
    for number, identity in enumerate(kept):
        text = json.dumps(plain(identity), sort_keys=True)
        groups.setdefault(text, []).append(number)
    firsts = [kept[numbers[0]] for numbers in groups.values()]
    differing = [key for key in keys if len({_text(f.get(key)) for f in firsts}) > 1]
    differing = _without_followers(differing, firsts)
    # An encoder of another class is told by the class.
    names = short_names([key.removesuffix(".class_path") for key in differing])
    shown = dict(zip(differing, names, strict=True))
    settings = [
        Setting(
            number=place,
            runs=tuple(runs[n] for n in numbers),
            # Code is told by its commit, as people know it.
            differs={
                name: runs[numbers[0]].exact_code if key == CODE else first.get(key)
                for key, name in shown.items()
            },
        )
        for place, (numbers, first) in enumerate(zip(groups.values(), firsts, strict=True), 1)
    ]
    texts = {name: distinct([s.differs[name] for s in settings]) for name in names}
    return [
        replace(setting, shown={name: words[place] for name, words in texts.items()})
        for place, setting in enumerate(settings)
    ]


def resolve_metrics(runs: Sequence[ComparedRun], asked: Sequence[str]) -> list[str]:
    """Return the metrics to compare by: those asked for, else the main scores that all have.

    Raises:
        UserError: a metric that no run has.
    """
    logged = list(dict.fromkeys(name for run in runs for name in run.metrics))
    if not logged:
        raise UserError("none of these runs has logged anything yet")
    for metric in asked:
        if not any(parts(metric, run.metrics) for run in runs):
            scores = [name for name in logged if not name.startswith("train/")]
            there = ", ".join(sorted(scores)[:12]) or ", ".join(sorted(logged)[:12])
            raise UserError(
                f"--metric {metric}: no run has it{nearest(metric, logged)}; they have {there}"
            )
    if asked:
        return list(asked)
    # What each run is known by comes first, as `mmlight ps` and `mmlight runs` show it.
    wanted = dict.fromkeys([*(m for run in runs if (m := run.main_metric)), *CANDIDATES])
    known = [m for m in wanted if all(parts(m, run.metrics) for run in runs if run.metrics)]
    return known[:_MAX_DEFAULTS] or [next((n for n in logged if is_loss(n)), logged[0])]


def better(settings: Sequence[Setting], metric: str) -> Direction:
    """Return whether the larger or the smaller value of a metric is better."""
    return direction(metric, modes=[run.mode for setting in settings for run in setting.runs])


def ordered(settings: Sequence[Setting], metric: str) -> list[Setting]:
    """Return the settings, best mean of the final value first; those without one last."""
    sign = -1 if better(settings, metric) == "max" else 1

    def place(setting: Setting) -> tuple[bool, float, int]:
        found = setting.spread(lambda run: run.final(metric)).mean
        return (found is None, sign * (found or 0.0), setting.number)

    return sorted(settings, key=place)


def ranked(settings: Sequence[Setting], metric: str) -> list[Setting]:
    """Return the settings as `ordered` does, numbered from 1, the best."""
    places = enumerate(ordered(settings, metric), 1)
    return [replace(setting, number=number) for number, setting in places]


def as_text(value: Any) -> str:
    """Return a setting's value as people write it, shortened."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    text = value if isinstance(value, str) else json.dumps(plain(value))
    if "." in text and "/" not in text and text.replace(".", "").replace("_", "").isalnum():
        text = text.rpartition(".")[2] or text  # the class of a dotted path
    return text if len(text) <= 32 else f"{text[:29]}..."


def distinct(values: Sequence[Any]) -> list[str]:
    """Return values of one setting as people write them; those that differ are told apart.

    Args:
        values: of the settings that are compared.
    """
    short = [as_text(value) for value in values]
    if len(set(short)) == len({_text(value) for value in values}):
        return short
    whole = [value if isinstance(value, str) else json.dumps(plain(value)) for value in values]
    # What begins, or ends, alike is left out, at a boundary of words.
    begin, end = _shared(whole), _shared([text[::-1] for text in whole])
    begin = max((m.end() for m in _BOUNDARY.finditer(whole[0], 0, begin)), default=0)
    shown = []
    for text in whole:
        stop = max(len(text) - end, begin)
        following = _BOUNDARY.search(text, stop)
        stop = following.start() if following else len(text)
        middle = text[begin:stop]
        shown.append(f"{'…' if begin else ''}{middle}{'…' if stop < len(text) else ''}")
    return shown


def _shared(texts: Sequence[str]) -> int:
    """Return with how many characters all of them begin."""
    first, last = min(texts), max(texts)
    return next(
        (n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)
    )


def _identity(run: ComparedRun, ignore: Sequence[str]) -> dict[str, Any]:
    settings = {
        key: value
        for key, value in run.settings.items()
        if not any(key == name or key.startswith(f"{name}.") for name in ignore)
    }
    if CODE not in ignore:
        settings[CODE] = run.code_identity
    if DATA not in ignore and run.data:
        settings[DATA] = ", ".join(f"{k} {v[:8]}" for k, v in sorted(run.data.items()))
    return settings


def _without_followers(keys: list[str], firsts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Leave out keys below one whose class differs too, where they say no more than it does."""
    kept: list[str] = []
    seen: set[tuple[str, ...]] = set()
    for key in sorted(keys, key=lambda k: (not k.endswith("class_path"), keys.index(k))):
        pattern = _pattern([_text(first.get(key)) for first in firsts])
        parent = key.rpartition(".")[0]
        below_class = any(
            other.endswith(".class_path") and parent.startswith(other.removesuffix("class_path"))
            for other in kept
        )
        if below_class and pattern in seen:
            continue
        seen.add(pattern)
        kept.append(key)
    return sorted(kept, key=keys.index)


def _pattern(values: list[str]) -> tuple[str, ...]:
    """Return which values are equal, whatever they are."""
    return tuple(str(values.index(value)) for value in values)


def _text(value: Any) -> str:
    return json.dumps(plain(value), sort_keys=True)
