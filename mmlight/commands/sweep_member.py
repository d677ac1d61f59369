"""The begin of a sweep's run whose values Optuna draws: `submitted.yaml` (used by job scripts)."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmlight import yaml_text
from mmlight.errors import UserError
from mmlight.files import write_text
from mmlight.runs.plan.local import described
from mmlight.runs.plan.member_config import place
from mmlight.runs.plan.optuna_search import OptunaSearch
from mmlight.runs.plan.results import SweepFolder
from mmlight.runs.plan.status import read_results
from mmlight.runs.plan.sweep import Sweep, TrialRun, load, trial_runs
from mmlight.runs.run.attempts import append_event
from mmlight.runs.slurm.launch import CONFIG
from mmlight.terminal import note, say

BASE = "base.yaml"


def main(arguments: Sequence[str]) -> int:
    """Draw the values of a run and write its configuration, unless it has begun before.

    Args:
        arguments: the sweep's folder, and the run's id.
    """
    path, run_id = Path(arguments[0]), arguments[1]
    config = path / run_id / CONFIG
    if config.exists():
        return 0
    sweep = load(path / "slurm" / "sweep.yaml")
    folder = SweepFolder(path.parent, path.name)
    search = OptunaSearch(sweep, journal=folder.journal)
    read_results(sweep, folder, search=search)  # what has finished is told to Optuna
    runs = {r.id: r for n in range(sweep.trials or 0) for r in trial_runs(sweep, n, {})}
    waiting = runs[run_id]
    run = TrialRun(waiting.number, search.claim(waiting.number), waiting.seed)
    say(f"mmlight: trial {run.number}: {described(sweep, run.values)}")
    write_text(config, yaml_text.dump(_config(sweep, run, path)))
    return 0


def _config(sweep: Sweep, run: TrialRun, path: Path) -> dict[str, Any]:
    base: dict[str, Any] = yaml_text.load((path / "slurm" / BASE).read_text())
    placed = place(base, {**run.settings, "run.id": run.id})
    if placed is not None:
        return placed
    from mmlight.experiment.parser import resolve  # loads torch

    config, _ = resolve(["fit", "-c", str(sweep.experiment), *run.overrides()])
    for key in ("accelerator", "devices", "num_nodes"):
        config["trainer"][key] = base["trainer"][key]
    return {**config, "run": {**base["run"], "id": run.id}}


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        note(error)
        append_event(Path(sys.argv[1]) / sys.argv[2], "gave up", reason=str(error))
        sys.exit(2)
