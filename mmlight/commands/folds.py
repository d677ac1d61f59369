"""``mmlight folds``: cross-validation of one experiment, a run for each part that is left out."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmlight import compose, yaml_text
from mmlight.data.splits.folds import Fold, Folds, find_folds, fold_data
from mmlight.errors import UserError
from mmlight.experiment.parser import resolve
from mmlight.files import read_json, write_json, write_text
from mmlight.runs.plan.fold_results import (
    FoldResult,
    FoldsFolder,
    format_folds,
    newest,
    read_result,
    write_summary,
)
from mmlight.runs.run.folder import RUN_ID, RunFolder, agreed_id
from mmlight.runs.run.lock import RunLock
from mmlight.scores import format_value, main_metric
from mmlight.signals import Interrupted
from mmlight.terminal import Terminal

_FOLD_NAME = "{fold}"
_POLL_S = 0.5
_GRACE_S = 60.0


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight folds``.

    Raises:
        UserError: a mistake in the arguments or the experiment, or a fold that fails.
    """
    options, fit_arguments = _parser().parse_known_args(argv)
    if options.jobs < 1:
        raise UserError(f"folds: --jobs {options.jobs} must be 1 or more")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("folds starts the runs itself: call it once, not under torchrun or srun")
    config, name = resolve(["fit", *fit_arguments])
    data = config["data"]["init_args"]
    chosen = options.values.split(",") if options.values is not None else None
    folds = find_folds(data, field=options.field, k=options.k, values=chosen)
    configs = {fold.name: _fold_config(config, fold, folds) for fold in folds.folds}
    console = Terminal(soft_wrap=True)
    _announce(console, folds)
    if options.list:
        return 0
    folder = _open(config, name, resume=options.resume)
    plan = {
        "field": options.field,
        "k": options.k,
        "folds": [asdict(fold) for fold in folds.folds],
        "config": {**config, "run": {**config["run"], "id": None}},
    }
    try:
        with RunLock(folder.path, instead="leave out --resume to begin another"):
            if options.resume:
                _check_same(folder, plan)
            else:
                write_json(folder.plan, plan)
            for fold, values in configs.items():
                run = {"name": folder.run.name, "id": folder.fold_run(fold).id, "test": True}
                values["run"] = {**values["run"], **run}
                write_text(folder.config(fold), yaml_text.dump(values))
            return _run(folder, folds, jobs=options.jobs, console=console, about=plan)
    except Interrupted:
        said = "stopped by Ctrl-C; the same command with --resume goes on"
        raise Interrupted(said) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mmlight folds",
        allow_abbrev=False,
        description="Cross-validate one experiment: split the samples of data.train (name the "
        "shards of all folds there), train without each part in turn, and score the part that was "
        "left out with the final weights. All other arguments are those of `mmlight fit`.",
        epilog="Each fold is a run of its own; folds.json and the table give every test metric by "
        "fold, its mean and its standard deviation. {fold} in a setting of the model stands for "
        "the fold's name, for towers that were pretrained fold by fold too: "
        "--model.towers.audio.from_run 'runs/pretrain/ID-{fold}'.",
    )
    parser.add_argument(
        "--field", help="leave out one value of this metadata after another, such as json:speaker"
    )
    parser.add_argument(
        "--k",
        type=int,
        help="k folds: of samples, dealt out label by label; with --field, of groups of its values",
    )
    parser.add_argument("--values", help="only these folds: values, or numbers with --k: ann,bob")
    parser.add_argument("--jobs", type=int, default=1, help="folds that run at the same time")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the last cross-validation of this experiment (or that of --run.id): "
        "finished folds stay, one that was broken off continues from its checkpoint",
    )
    parser.add_argument("--list", action="store_true", help="print the folds, and run none")
    return parser


def _fold_config(config: dict[str, Any], fold: Fold, folds: Folds) -> dict[str, Any]:
    data = config["data"]
    init_args = fold_data(data["init_args"], fold, folds)
    model = _named(config["model"], fold.name)
    return {**config, "model": model, "data": {**data, "init_args": init_args}}


def _named(value: Any, fold: str) -> Any:
    """Put a fold's name into the settings of the model that ask for it."""
    if isinstance(value, dict):
        return {key: _named(item, fold) for key, item in value.items()}
    if isinstance(value, list):
        return [_named(item, fold) for item in value]
    return value.replace(_FOLD_NAME, fold) if isinstance(value, str) else value


def _announce(console: Terminal, folds: Folds) -> None:
    for fold in folds.folds:
        values = "" if fold.values == (fold.name,) else f"  ({', '.join(fold.values)})"
        told = f"{fold.num_samples} of {folds.num_samples} samples"
        console.print(f"fold {fold.name}: tested on {told}{values}")
    if folds.num_unknown:
        console.print(
            f"{folds.num_unknown} samples have no {folds.folds[0].source}: every fold trains on "
            "them"
        )


def _open(config: dict[str, Any], default_name: str, *, resume: bool) -> FoldsFolder:
    settings = config["run"]
    name = settings["name"] or default_name
    if not resume:
        run = RunFolder.create(settings["root"], name=name, run_id=settings["id"])
        if FoldsFolder(run).plan.exists():
            raise UserError(f"folds: {run.path} has been begun; --resume goes on with it")
        return FoldsFolder(run)
    root = Path(settings["root"])
    known = settings["id"] or agreed_id(os.environ)
    found = RunFolder(root / name / known) if known else newest(root, name=name)
    if found is None or not FoldsFolder(found).plan.exists():
        where = found.path if found is not None else root / name
        raise UserError(f"folds: nothing to go on with in {where}; leave out --resume")
    return FoldsFolder(found)


def _check_same(folder: FoldsFolder, plan: dict[str, Any]) -> None:
    before = read_json(folder.plan)
    if before is None:
        raise UserError(f"folds: {folder.plan} is damaged; leave out --resume to begin anew")
    now = json.loads(json.dumps(plan))
    for key in ("field", "k", "folds"):
        if before[key] != now[key]:
            raise UserError(
                f"folds: {folder.path} was begun with other {key}; leave out --resume to begin anew"
            )
    changed = compose.diff(before["config"], now["config"])
    if changed:
        key, (was, is_now) = next(iter(changed.items()))
        raise UserError(
            f"folds: {folder.path} was begun with {key}: {was}, now it is {is_now}; set it back, "
            "or leave out --resume to begin anew"
        )


@dataclass
class _Job:
    """A fold's run in a process of its own."""

    fold: FoldResult
    process: subprocess.Popen[bytes]


def _run(
    folder: FoldsFolder, folds: Folds, *, jobs: int, console: Terminal, about: dict[str, Any]
) -> int:
    """Run what has not finished, at most `jobs` at a time; summarise after each."""
    planned = [
        FoldResult(f.name, f.values, f.num_samples, run=folder.fold_run(f.name).id)
        for f in folds.folds
    ]
    asked = {key: about[key] for key in ("field", "k")}

    def results() -> list[FoldResult]:
        return [read_result(result, folder.fold_run(result.name)) for result in planned]

    for result in results():
        if result.is_finished:
            console.print(_told(result))
    waiting = [result for result in results() if not result.is_finished]
    with _ended(running := list[_Job]()):
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_start(folder, waiting.pop(0), jobs=jobs))
            time.sleep(_POLL_S)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                result = read_result(job.fold, folder.fold_run(job.fold.name))
                write_summary(folder, results(), about=asked)
                if job.process.returncode or not result.is_finished:
                    log = folder.log(result.name)
                    said = result.error or _last_line(log)
                    raise UserError(
                        f"fold {result.name} failed: {said}; all of it is in {log}, and --resume "
                        "goes on with the others"
                    )
                console.print(_told(result))
    write_summary(folder, results(), about=asked)
    console.print(format_folds(results()))
    console.print(f"folds: {folder.summary}")
    return 0


def _start(folder: FoldsFolder, fold: FoldResult, *, jobs: int) -> _Job:
    run = folder.fold_run(fold.name)
    command = [sys.executable, "-m", "mmlight", "fit", "-c", str(folder.config(fold.name))]
    if run.newest_checkpoint() is not None:
        command += ["--ckpt_path", "last"]
    # Of its own, not of the surroundings (a SLURM job's id).
    environment = {**os.environ, RUN_ID: run.id}
    if jobs > 1:  # runs that each take all cores hinder one another
        cores = len(os.sched_getaffinity(0))
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // jobs)))
    with folder.log(fold.name).open("ab") as log:
        return _Job(fold, subprocess.Popen(command, stdout=log, stderr=log, env=environment))


@contextmanager
def _ended(running: list[_Job]) -> Iterator[None]:
    """End the runs with this process: they save where they are, for --resume."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        for job in running:
            job.process.send_signal(signal.SIGTERM)
        for job in running:
            try:
                job.process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                job.process.kill()
                job.process.wait()


def _told(result: FoldResult) -> str:
    name = main_metric(result.metrics, monitor=None) or next(iter(result.metrics))
    value = format_value(name, result.metrics[name])
    return f"fold {result.name}: {name} {value} ({result.wall_s / 60:.1f} min)"


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("mmlight: ") if lines else "it printed nothing"
