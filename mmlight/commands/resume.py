"""``mmlight resume``: goes on with a run that has ended before its time, here or on SLURM."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmlight import compose
from mmlight.compose import diff
from mmlight.errors import UserError
from mmlight.runs.code.sources import read_sources
from mmlight.runs.run.find import find
from mmlight.runs.run.folder import Run
from mmlight.runs.run.signature import signature
from mmlight.runs.run.state import jobs_of, state_of
from mmlight.runs.run.submission import Submission
from mmlight.runs.slurm import client, profile
from mmlight.runs.slurm.launch import Launch
from mmlight.runs.slurm.profile import read_profile
from mmlight.terminal import note, say

# A run may be made longer; whatever else is changed makes another one.
_LENGTH = ("max_steps", "max_epochs")


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight resume``.

    Raises:
        UserError: the run is active, finished or no training, or SLURM is not here.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight resume",
        description="Go on with a run that was stopped, was cancelled, failed or ran out of "
        "restarts, from its newest checkpoint, in the same folder: here, or where it was given to "
        "SLURM by one more job, with the code it was submitted with. Number of nodes and devices "
        "may be changed (--trainer.num_nodes 2), and it may be made longer, a finished run too "
        "(--trainer.max_steps N); other settings make another experiment.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="NAME/ID, ID, a path, or its begin")
    add("--cluster", type=Path, help="another cluster's profile")
    add("--cluster.KEY", metavar="VALUE", help="a value in place of the profile's")
    add("--new-code", action="store_true", help="run the code as it is now")
    add("--root", default="runs", help="the folder of all runs (default: runs)")
    given, changes = profile.take_changes(argv)
    options, rest = parser.parse_known_args(given)
    run = find(options.run, root=options.root)
    before = run.submission
    if before is None:
        flag = next((f"--cluster.{key}" for key in changes), "--new-code")
        if options.cluster or changes or options.new_code:
            flag = "--cluster" if options.cluster else flag
            raise UserError(f"{flag} is for runs on SLURM, and {run.label} was not given to it")
        return _go_on_here(run, rest)
    if not client.is_here():
        raise UserError(
            f"{client.MISSING.format('sbatch')}; go on with it here: {shlex.join(_here(run, rest))}"
        )
    state = state_of(run, jobs_of([run]))
    if state.is_active:
        raise UserError(f"{run.label} is {state}: there is nothing to resume")
    saved = _read(before.config)
    config = _changed(saved, before.config, rest)
    if state.word == "finished" and not _is_longer(config, saved):
        raise UserError(
            f"{run.label} is {state}: there is nothing to resume; --trainer.max_steps N makes it "
            "longer"
        )
    cluster = options.cluster or Path(before.cluster)
    # Changes of the profile last, unless the profile is another one.
    changes = changes if options.cluster else {**before.changes, **changes}
    site = read_profile(cluster, changes=changes)
    snapshot, own = _code(before, run, config, new=options.new_code)
    launch = Launch(
        run=run.path.absolute(),
        config=config,
        cluster=cluster,
        changes=changes,
        profile=site,
        snapshot=snapshot,
        own=own,
        cwd=Path(before.cwd),
    )
    submission = launch.submit_again(replace(before, jobs=tuple(run.jobs)))
    say(f"{run.label}: job {submission.jobs[-1]}, {launch.resources}, from step {run.step}")
    return 0


def _go_on_here(run: Run, arguments: Sequence[str]) -> int:
    """Train on in this process."""
    config = run.config_yaml
    verb = (run.provenance or {}).get("verb", "fit")
    if not config.is_file() or verb != "fit":
        what = "never got to its first step" if not config.is_file() else f"is of `{verb}`"
        raise UserError(f"{run.label} {what}: there is no training to go on with")
    saved = _read(str(config))
    longer = _is_longer(_changed(saved, str(config), arguments), saved)
    if state_of(run, None).word == "finished" and not longer:
        raise UserError(
            f"{run.label} has finished: there is nothing to resume; --trainer.max_steps N makes it "
            "longer"
        )
    from mmlight.commands import train  # loads torch

    begun = run.newest_checkpoint() is not None
    first = (run.provenance or {}).get("ckpt_path")
    checkpoint = str(first) if first and not begun else "auto"
    return train.main([*_here(run, arguments)[1:-1], checkpoint])


def _changed(saved: dict[str, Any], path: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the configuration with changes of its length, and of what it runs on."""
    if not arguments:
        return saved
    from mmlight.experiment.parser import resolve  # loads torch

    changed, _ = resolve(["fit", "-c", path, *arguments])
    made_longer = _with_length(saved, changed)
    if signature(changed) != signature(made_longer):
        keys = ", ".join(list(diff(made_longer, changed))[:3])
        raise UserError(
            f"{keys}: changed, it would be another experiment; mmlight fit (or submit) -c {path} "
            f"{shlex.join(arguments)} begins that"
        )
    for key in _LENGTH:
        old, new = (config["trainer"].get(key) for config in (saved, changed))
        if old != new and not _is_more(new, old):
            raise UserError(f"trainer.{key}: {new} is not more than {old}: no run is made shorter")
    if _is_longer(changed, saved):
        note("a schedule that goes by the whole length (cosine) goes on as that of the longer run")
    return changed


def _read(path: str) -> dict[str, Any]:
    values = compose.read(Path(path))
    if not isinstance(values.get("trainer"), Mapping):
        raise UserError(f"{path} has no trainer: it is not the configuration of a run")
    return values


def _with_length(values: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    length = {key: other["trainer"].get(key) for key in _LENGTH}
    return {**values, "trainer": {**values["trainer"], **length}}


def _is_longer(config: Mapping[str, Any], saved: Mapping[str, Any]) -> bool:
    return any(config["trainer"].get(key) != saved["trainer"].get(key) for key in _LENGTH)


def _is_more(new: Any, old: Any) -> bool:
    """Return whether a limit is higher; None and -1 are none."""
    most = float("inf")
    values = [most if value in (None, -1) else float(value) for value in (new, old)]
    return values[0] > values[1]


def _code(
    before: Submission, run: Run, config: Mapping[str, Any], *, new: bool
) -> tuple[Path | None, tuple[Path, ...]]:
    """Return where Python imports mmlight from, and where the user's own code."""
    if new:
        sources = read_sources(config, root=run.path.absolute().parents[1])
        for line in sources.notes():
            note(line)
        sources.copy()
        return sources.snapshot, sources.own_folders
    for folder in (before.snapshot, *before.own):
        if folder is not None and not Path(folder).exists():
            raise UserError(
                f"the code it was submitted with is gone ({folder}); --new-code takes the code as "
                "it is now"
            )
    own = tuple(map(Path, before.own))
    return Path(before.snapshot) if before.snapshot else None, own


def _here(run: Run, more: Sequence[str]) -> list[str]:
    config = run.config_yaml if run.submission is None else run.submitted_yaml
    path = run.path if len(run.path.parents) > 1 else run.path.absolute()
    words = ["mmlight", "fit", "-c", str(config), "--run.root", str(path.parents[1])]
    return [*words, *more, "--run.name", run.name, "--run.id", run.id, "--ckpt_path", "auto"]
