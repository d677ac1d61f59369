"""Cross-validation: a run for each fold, every metric by fold, its mean and deviation."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mmlight import compose
from mmlight.errors import UserError
from mmlight.files import read_json, write_json
from mmlight.runs.plan.processes import Command, command_of, ends_on_term, last_line, run_all
from mmlight.runs.run.folder import Run
from mmlight.runs.show.grid import Column, Grid
from mmlight.scores import format_value, main_metric

_MAX_SHOWN_FOLDS = 6


@dataclass(frozen=True)
class FoldResult:
    """How one fold did.

    Attributes:
        name: the fold's name.
        values: the metadata it leaves out.
        num_samples: samples it is scored on.
        run: the run's folder, relative to that of the experiment.
        status: ``new``, ``finished``, or what else the run's summary says.
        wall_s: seconds of the run.
        metrics: final values by name, such as ``test/accuracy``; none before it has finished.
        error: what went wrong.
    """

    name: str
    values: tuple[str, ...]
    num_samples: int
    run: str
    status: str = "new"
    wall_s: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether it was trained and scored to the end."""
        return self.status == "finished" and bool(self.metrics)

    def __str__(self) -> str:
        name = main_metric(self.metrics, monitor=None) or next(iter(self.metrics))
        value = format_value(name, self.metrics[name])
        return f"fold {self.name}: {name} {value} ({self.wall_s / 60:.1f} min)"


@dataclass(frozen=True)
class FoldsFolder:
    """``runs/<name>/<id>/``: the summary; the runs of the folds lie beside it.

    Attributes:
        run: the folder.
    """

    run: Run

    @property
    def summary(self) -> Path:
        """The results as JSON."""
        return self.run.path / "folds.json"

    @property
    def plan(self) -> Path:
        """What was asked for, to continue nothing else."""
        return self.run.path / "plan.json"

    def config(self, fold: str) -> Path:
        """The configuration of a fold's run."""
        return self.run.path / f"{fold}.yaml"

    def log(self, fold: str) -> Path:
        """What a fold's run printed."""
        return self.run.path / f"{fold}.log"

    def fold_run(self, fold: str) -> Run:
        """The run of a fold."""
        return Run(self.run.path.parent / f"{self.run.id}-{fold}")

    def command(self, fold: str) -> Command:
        """What starts a fold's run, or goes on with it."""
        arguments = ["fit", "-c", str(self.config(fold))]
        return command_of(self.fold_run(fold), arguments, log=self.log(fold))

    def check_same(
        self,
        plan: Mapping[str, Any],
        *,
        completed: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        """Refuse to go on with something else than what was begun.

        Args:
            plan: what is asked for now.
            completed: returns a configuration with every default of today filled in: what has
                come since an earlier version began is no difference where it has its default.

        Raises:
            UserError: it differs from what the folder was begun with.
        """
        before, now = read_json(self.plan), json.loads(json.dumps(plan))
        begun = f"folds: {self.run.path} was begun with"
        if before is None:
            raise UserError(f"folds: {self.plan} is damaged; leave out --resume to begin anew")
        for key in ("field", "k", "folds"):
            if before[key] != now[key]:
                raise UserError(f"{begun} other {key}; leave out --resume to begin anew")
        found = compose.diff(before["config"], now["config"])
        if found:
            found = compose.diff(completed(before["config"]), now["config"])
        for key, (was, is_now) in found.items():
            raise UserError(
                f"{begun} {key}: {was}, now it is {is_now}; set it back, or leave out --resume to "
                "begin anew"
            )


def newest(root: Path, *, name: str) -> Run | None:
    """Return the cross-validation of an experiment that was begun last."""
    found = sorted((root / name).glob("*/plan.json"), key=lambda p: (p.stat().st_mtime_ns, p))
    return Run(found[-1].parent) if found else None


def read_result(planned: FoldResult, run: Run) -> FoldResult:
    """Return how a fold did, from its run's summary."""
    summary = read_json(run.summary_json)
    if summary is None:
        return planned
    return replace(
        planned,
        status=summary["status"],
        wall_s=float(summary.get("wall_s") or 0.0),
        metrics={n: float(v) for n, v in summary["final"].items() if n.startswith("test/")},
        error=summary["error"],
    )


def read_results(folder: FoldsFolder, planned: Sequence[FoldResult]) -> list[FoldResult]:
    """Return how all folds did, in their order."""
    return [read_result(fold, folder.fold_run(fold.name)) for fold in planned]


def run_folds(
    folder: FoldsFolder, planned: Sequence[FoldResult], *, jobs: int, about: Mapping[str, Any]
) -> Iterator[FoldResult]:
    """Run what has not finished, and sum up after each; yield each fold that has finished.

    Args:
        folder: of the cross-validation; the configurations of the folds lie in it.
        planned: all folds.
        jobs: how many run at the same time.
        about: further entries of the summary: what was asked for.

    Raises:
        UserError: a fold fails; the others are ended, and can be gone on with.
    """
    before = read_results(folder, planned)
    yield from (result for result in before if result.is_finished)
    commands = [(r.name, folder.command(r.name)) for r in before if not r.is_finished]
    with ends_on_term(), closing(run_all(commands, jobs=jobs)) as ended:
        for one in ended:
            results = read_results(folder, planned)
            write_summary(folder, results, about=about)
            result = next(result for result in results if result.name == one.key)
            if one.code or not result.is_finished:
                log = folder.log(result.name)
                raise UserError(
                    f"fold {result.name} failed: {result.error or last_line(log)}; all of it is in "
                    f"{log}, and --resume goes on with the others"
                )
            yield result
    write_summary(folder, read_results(folder, planned), about=about)


def statistics(results: Sequence[FoldResult]) -> dict[str, dict[str, float]]:
    """Return mean, standard deviation, least and largest value of each metric.

    Over folds that have finished, each counting once. The deviation is that of a sample (n - 1);
    with one fold there is none. A metric that some fold lacks is left out.
    """
    finished = [result.metrics for result in results if result.is_finished]
    found = {}
    for name in finished[0] if finished else ():
        if all(name in metrics for metrics in finished):
            values = [metrics[name] for metrics in finished]
            found[name] = {"mean": mean(values), "min": min(values), "max": max(values)}
            if len(values) > 1:
                found[name]["std"] = stdev(values)
    return found


def write_summary(
    folder: FoldsFolder, results: Sequence[FoldResult], *, about: Mapping[str, Any]
) -> None:
    """Write ``folds.json``."""
    done = sum(result.is_finished for result in results)
    write_json(
        folder.summary,
        {
            "name": folder.run.name,
            "id": folder.run.id,
            "status": "finished" if done == len(results) else "unfinished",
            **about,
            "metrics": statistics(results),
            "wall_s": round(sum(result.wall_s for result in results), 1),
            "folds": [asdict(result) for result in results],
        },
    )


def format_folds(results: Sequence[FoldResult]) -> Grid:
    """Return the table for the terminal: metrics in rows, their mean and deviation, and folds."""
    finished = [result for result in results if result.is_finished]
    shown = finished if len(finished) <= _MAX_SHOWN_FOLDS else []
    names = ["mean ± std", *([result.name for result in shown] or ["least", "most"])]
    numbers = (Column(name, align="right") for name in names)
    rows = []
    for name, found in statistics(results).items():
        value = format_value(name, found["mean"])
        if "std" in found:
            value = f"{value.removesuffix(' %')} ± {format_value(name, found['std'])}"
        others = [result.metrics[name] for result in shown] or [found["min"], found["max"]]
        cells = (format_value(name, other).removesuffix(" %") for other in others)
        rows.append((name.removeprefix("test/"), value, *cells))
    return Grid((Column(f"{len(finished)} of {len(results)} folds"), *numbers), tuple(rows))
