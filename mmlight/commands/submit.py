"""``mmlight submit``: gives an experiment to SLURM."""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.code.sources import Sources, read_sources
from mmlight.runs.run.find import find
from mmlight.runs.run.folder import Run
from mmlight.runs.run.ids import checked
from mmlight.runs.run.signature import signature
from mmlight.runs.run.state import jobs_of, state_of
from mmlight.runs.slurm import client, profile
from mmlight.runs.slurm.followers import dependency, follow
from mmlight.runs.slurm.launch import NEVER_SUBMITTED, Launch
from mmlight.runs.slurm.profile import read_profile
from mmlight.runs.slurm.resources import notes
from mmlight.terminal import note, say, say_text


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight submit``.

    Raises:
        UserError: SLURM is not here, anything `mmlight fit` refuses, settings that the cluster
            cannot serve, or an experiment that was launched before.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight submit",
        usage="mmlight submit -c FILE --cluster FILE [--cluster.KEY VALUE] [--dry-run] [--again] "
        "[--after RUN] [--KEY VALUE ...]",
        description="Give an experiment to SLURM. Takes what `mmlight fit` takes, and checks it "
        "before it is submitted. The job runs a copy of the code as it is now, is warned before "
        "its time is up, and goes on in the next job until the training is finished.",
        epilog="example: mmlight submit -c experiments/pretrain/NAME.yaml --cluster "
        "slurm/clusters/SITE.yaml --cluster.time 12:00:00 --trainer.num_nodes 2 --dry-run",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--cluster",
        type=Path,
        required=True,
        metavar="FILE",
        help="the cluster's profile, a YAML file",
    )
    add("--cluster.KEY", metavar="VALUE", help="a value in place of the profile's")
    add("--dry-run", action="store_true", help="print the job script, and submit nothing")
    add("--again", action="store_true", help="launch one more run of an experiment")
    add(
        "--after",
        action="append",
        default=[],
        metavar="RUN",
        help="begin when this run has finished, over all of its restarts (model.towers.X.from_run "
        "may name its folder); may be given more than once",
    )
    given, changes = profile.take_changes(argv)
    options, rest = parser.parse_known_args(given)
    if not options.dry_run and not client.is_here():
        raise UserError(client.MISSING.format("sbatch") + "; --dry-run prints the job script")
    launch, sources = prepare(rest, cluster=options.cluster, changes=changes)
    site = launch.profile
    before = launched_before(launch.run)
    if options.again and before:
        run = launch.run.with_name(f"{launch.run.name}-{len(before) + 1}")
        launch = replace(launch, run=run)
    for line in (*notes(launch.config, site), *sources.notes()):
        note(line)
    if options.dry_run:
        return _show(launch, known=before if not options.again else [])
    if before and not options.again:
        raise UserError(_launched(before[-1]))
    after = [find(run, root=launch.run.parents[1]).path for run in options.after]
    waits = dependency(after)
    sources.copy()
    submission = launch.submit(options=waits)
    follow(after, submission.jobs[-1])
    label = f"{submission.name}/{submission.id}"
    say(f"{label}: job {submission.jobs[-1]}, {launch.resources}, {site.time} at a time")
    if described := sources.described():
        say(f"code: {described}")
    for path in after if waits else ():
        say(f"it begins when {path.parent.name}/{path.name} has finished")
    say(f"mmlight logs -f {label}   mmlight ps   mmlight cancel {label}")
    return 0


def prepare(
    arguments: Sequence[str], *, cluster: Path, changes: Mapping[str, str]
) -> tuple[Launch, Sources]:
    """Resolve what `mmlight fit` takes, and check it against a cluster.

    Returns:
        The run as it would be launched for the first time, and the code it would run.
    """
    site = read_profile(cluster, changes=changes)
    from mmlight.experiment.parser import resolve  # loads torch

    config, name = resolve(["fit", *arguments])
    root = Path(config["run"]["root"]).absolute()
    name = checked("name", config["run"]["name"] or name)
    sources = read_sources(config, root=root)
    run = root / name / checked("id", config["run"]["id"] or signature(config))
    code = (sources.snapshot, sources.own_folders)
    return Launch(run, config, cluster, changes, site, *code), sources


def launched_before(run: Path) -> list[Run]:
    """Return the runs of the same experiment, the first one and those with a number behind."""
    found = (run, *(run.with_name(f"{run.name}-{n}") for n in range(2, 1000)))
    return [Run(path) for path in takewhile(Path.exists, found)]


def _launched(run: Run) -> str:
    if run.submission is None:
        return NEVER_SUBMITTED.format(run.path)
    state = state_of(run, jobs_of([run], missing=note))
    is_over = state.is_active or state.word == "finished"
    further = "" if is_over else f"`mmlight resume {run.label}` goes on with it, "
    return (
        f"the same experiment was launched before: {run.label} is {state}; {further}--again "
        "launches another run of it"
    )


def _show(launch: Launch, *, known: Sequence[Run]) -> int:
    script = launch.script()
    say_text(script)
    sys.stdout.flush()
    note(f"{launch.run.parent.name}/{launch.run.name}: {launch.resources}")
    if known:
        note(_launched(known[-1]))
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        try:
            note(client.would_start(Path(file.name)).strip().removeprefix("sbatch: "))
        except client.Unreachable as error:
            note(f"{error}, so nobody was asked whether the job would be taken")
    return 0
