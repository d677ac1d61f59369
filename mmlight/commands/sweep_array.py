"""``mmlight sweep --cluster``: gives a sweep to SLURM as one array.

As a program (``python -m mmlight.commands.sweep_array FOLDER ID``) it begins a run whose values
Optuna draws: the job script has it write the run's ``submitted.yaml``.
"""

import getpass
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlight import yaml_text
from mmlight.errors import UserError
from mmlight.files import write_text
from mmlight.runs.code.sources import read_sources
from mmlight.runs.plan.configs import freeze, place
from mmlight.runs.plan.local import described
from mmlight.runs.plan.optuna_search import OptunaSearch
from mmlight.runs.plan.results import SweepFolder, read_run
from mmlight.runs.plan.status import jobs_now, progress, read_results, record_results
from mmlight.runs.plan.sweep import Choices, Sweep, TrialRun, load, trial_runs
from mmlight.runs.run.attempts import append_event
from mmlight.runs.slurm import client
from mmlight.runs.slurm.launch import CONFIG, ArrayLaunch, Launch
from mmlight.runs.slurm.profile import read_profile
from mmlight.terminal import note, say, say_text

# The runs of one array have the same machines.
_ONE_FOR_ALL = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes")
_BEGUN = ("failed", "stopped")
_NOT_DUE = ("finished", "waiting", "running")
_BASE = "base.yaml"


def submit_sweep(
    sweep: Sweep, folder: SweepFolder, options: Namespace, *, changes: Mapping[str, str]
) -> int:
    """Submit the runs that have not finished and are not under way; return the exit code.

    Options are those of ``mmlight sweep``, changes those of the cluster's profile.

    Raises:
        UserError: SLURM is not here, or the sweep is none for it.
    """
    if not options.dry_run:
        try:
            client.queue(users=[getpass.getuser()])
        except UserError as error:
            raise UserError(
                f"{error}; without --cluster the sweep runs here, --dry-run prints the job script"
            ) from None
    site = read_profile(options.cluster, changes=changes)
    _check(sweep)
    runs = _runs(sweep)
    tasks = _tasks(runs, sweep, folder, failed_only=options.retry_failed)
    if not tasks:
        said = (
            "no run of the sweep has failed"
            if options.retry_failed
            else "nothing is left to submit"
        )
        say(f"{said}; {progress(record_results(sweep, folder, queue=jobs_now(folder)), sweep)}")
        return 0
    draws = sweep.searcher == "optuna"
    experiment = sweep.experiment
    if not options.dry_run:
        folder.open(sweep)
        experiment = freeze(sweep.experiment, folder.path / "slurm")
    configs = _configs([runs[t] for t in tasks], sweep, experiment, draws=draws)
    root = folder.root.absolute()
    sources = read_sources(configs[0], root=root)
    for line in sources.notes():
        note(line)
    launches = {
        task: Launch(
            run=root / folder.name / runs[task].id,
            config=config,
            cluster=options.cluster,
            changes=changes,
            profile=site,
            snapshot=sources.snapshot,
            own=sources.own_folders,
        )
        for task, config in zip(tasks, configs, strict=True)
    }
    launch = ArrayLaunch(
        folder=root / folder.name,
        ids=[run.id for run in runs],
        launches=launches,
        max_concurrent=options.max_concurrent,
        draws=draws,
    )
    largest = client.max_array_size()
    if options.dry_run:
        for _, text, _ in launch.scripts(largest=largest):
            say_text(text)
        return 0
    sources.copy()
    _write_shared(sweep, folder, experiment)
    if draws:
        OptunaSearch(sweep, journal=folder.journal).reserve(sweep.trials or 0)
        first = launches[tasks[0]]
        write_text(folder.path / "slurm" / _BASE, yaml_text.dump(first.full_config()))
    jobs = launch.submit(largest=largest)
    resources = launches[tasks[0]].resources
    at_once = f", {options.max_concurrent} at a time" if options.max_concurrent else ""
    named = f"job{'s' * (len(jobs) > 1)} {', '.join(jobs)}"
    say(f"{folder.name}: {named}, {len(tasks)} of {len(runs)} runs{at_once}, {resources} each")
    say(f"mmlight ps   mmlight logs -f {folder.name}/{runs[tasks[0]].id}")
    return 0


def _check(sweep: Sweep) -> None:
    if sweep.prune:
        raise UserError(
            "prune: true needs one process that watches all runs; leave it out for SLURM, or sweep "
            "without --cluster"
        )
    for key in _ONE_FOR_ALL:
        parameter = sweep.parameters.get(key)
        if parameter is not None and not (
            isinstance(parameter, Choices) and len(parameter.values) == 1
        ):
            raise UserError(
                f"sweep parameters.{key}: the runs of one SLURM array have the same machines; give "
                "it one value"
            )


def _runs(sweep: Sweep) -> list[TrialRun]:
    """Return all runs in the order of the array's tasks; Optuna draws their values later."""
    draws = sweep.searcher == "optuna"
    found = [{}] * (sweep.trials or 0) if draws else sweep.combinations()
    return [run for n, values in enumerate(found) for run in trial_runs(sweep, n, values)]


def _tasks(
    runs: list[TrialRun], sweep: Sweep, folder: SweepFolder, *, failed_only: bool
) -> list[int]:
    queue = jobs_now(folder)
    states = [read_run(folder, run, sweep, queue).state for run in runs]
    if failed_only:
        return [task for task, state in enumerate(states) if state in _BEGUN]
    return [task for task, state in enumerate(states) if state not in _NOT_DUE]


def _configs(
    runs: list[TrialRun], sweep: Sweep, experiment: Path, *, draws: bool
) -> list[dict[str, Any]]:
    """Return the resolved configuration of each run; the parser reads no more than it has to."""
    from mmlight.experiment.parser import resolve  # loads torch

    def resolved(run: TrialRun) -> dict[str, Any]:
        return resolve(["fit", "-c", str(experiment), *run.overrides()])[0]

    if draws:
        # Any values will do: each run gets its own when it begins.
        return [resolved(TrialRun(0, sweep.drawn(0), runs[0].seed))] * len(runs)
    first = resolved(runs[0])
    return [place(first, run.settings) or resolved(run) for run in runs]


def _write_shared(sweep: Sweep, folder: SweepFolder, experiment: Path) -> None:
    """Write the sweep as its jobs read it: by the copy of the experiment."""
    shared = folder.path / "slurm" / "sweep.yaml"
    given = {**sweep.given, "experiment": str(experiment.relative_to(shared.parent))}
    write_text(shared, yaml_text.dump(given))


def draw(arguments: Sequence[str]) -> int:
    """Draw the values of a run and write its configuration, unless it has begun before."""
    path, run_id = Path(arguments[0]), arguments[1]
    config = path / run_id / CONFIG
    if config.exists():
        return 0
    sweep = load(path / "slurm" / "sweep.yaml")
    folder = SweepFolder(path.parent, path.name)
    search = OptunaSearch(sweep, journal=folder.journal)
    read_results(sweep, folder, search=search)  # Optuna learns what has finished
    waiting = next(run for run in _runs(sweep) if run.id == run_id)
    run = TrialRun(waiting.number, search.claim(waiting.number), waiting.seed)
    say(f"mmlight: trial {run.number}: {described(sweep, run.values)}")
    write_text(config, yaml_text.dump(_drawn_config(sweep, run, path)))
    return 0


def _drawn_config(sweep: Sweep, run: TrialRun, path: Path) -> dict[str, Any]:
    base: dict[str, Any] = yaml_text.load((path / "slurm" / _BASE).read_text())
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
        sys.exit(draw(sys.argv[1:]))
    except UserError as error:
        note(error)
        append_event(Path(sys.argv[1]) / sys.argv[2], "gave up", reason=str(error))
        sys.exit(2)
