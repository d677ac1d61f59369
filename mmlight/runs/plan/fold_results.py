"""What came out of cross-validation: every metric by fold, its mean and standard deviation."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from mmlight.files import read_json, write_json
from mmlight.runs.run.folder import RunFolder
from mmlight.scores import format_value

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


@dataclass(frozen=True)
class FoldsFolder:
    """``runs/<name>/<id>/``: the summary; the runs of the folds lie beside it.

    Attributes:
        run: the folder.
    """

    run: RunFolder

    @property
    def path(self) -> Path:
        """The folder."""
        return self.run.path

    @property
    def summary(self) -> Path:
        """The results as JSON."""
        return self.path / "folds.json"

    @property
    def plan(self) -> Path:
        """What was asked for, to continue nothing else."""
        return self.path / "plan.json"

    def config(self, fold: str) -> Path:
        """The configuration of a fold's run."""
        return self.path / f"{fold}.yaml"

    def log(self, fold: str) -> Path:
        """What a fold's run printed."""
        return self.path / f"{fold}.log"

    def fold_run(self, fold: str) -> RunFolder:
        """The run of a fold."""
        return RunFolder(self.path.parent / f"{self.run.id}-{fold}")


def newest(root: Path, *, name: str) -> RunFolder | None:
    """Return the cross-validation of an experiment that was begun last.

    Args:
        root: the folder of all runs.
        name: the experiment's name.
    """
    found = sorted((root / name).glob("*/plan.json"), key=lambda p: (p.stat().st_mtime_ns, p))
    return RunFolder(found[-1].parent) if found else None


def read_result(planned: FoldResult, run: RunFolder) -> FoldResult:
    """Return how a fold did, from its run's summary.

    Args:
        planned: the fold as planned.
        run: its run.
    """
    summary = read_json(run.summary)
    if summary is None:
        return planned
    final = {name: float(value) for name, value in summary["final"].items()}
    scored = {name: value for name, value in final.items() if name.startswith("test/")}
    return FoldResult(
        name=planned.name,
        values=planned.values,
        num_samples=planned.num_samples,
        run=planned.run,
        status=summary["status"],
        wall_s=float(summary.get("wall_s") or 0.0),
        metrics=scored,
        error=summary["error"],
    )


def statistics(results: Sequence[FoldResult]) -> dict[str, dict[str, float]]:
    """Return mean, standard deviation, least and largest value of each metric.

    Over folds that have finished, each counting once. The deviation is that of a sample (n - 1);
    with one fold there is none. A metric that some fold lacks is left out.

    Args:
        results: of all folds.
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
    """Write ``folds.json``.

    Args:
        folder: where.
        results: of all folds, finished or not.
        about: further entries: what was asked for.
    """
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


def format_folds(results: Sequence[FoldResult]) -> Table:
    """Return the table for the terminal: metrics in rows, their mean and deviation, and folds.

    Args:
        results: of all folds.
    """
    finished = [result for result in results if result.is_finished]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"{len(finished)} of {len(results)} folds", no_wrap=True)
    table.add_column("mean ± std", justify="right", no_wrap=True)
    shown = finished if len(finished) <= _MAX_SHOWN_FOLDS else []
    for result in shown:
        table.add_column(result.name, justify="right", no_wrap=True)
    if not shown:
        table.add_column("least", justify="right")
        table.add_column("most", justify="right")
    for name, found in statistics(results).items():
        told = format_value(name, found["mean"])
        if "std" in found:
            told = f"{told.removesuffix(' %')} ± {format_value(name, found['std'])}"
        values = [result.metrics[name] for result in shown] or [found["min"], found["max"]]
        cells = [format_value(name, value).removesuffix(" %") for value in values]
        table.add_row(name.removeprefix("test/"), told, *cells)
    return table
