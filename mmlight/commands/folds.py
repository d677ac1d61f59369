"""``mmlight folds``: cross-validation of one experiment, a run for each part that is left out."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmlight import yaml_text
from mmlight.data.splits.folds import Folds, find_folds, fold_data
from mmlight.errors import UserError
from mmlight.experiment.parser import completed, resolve
from mmlight.files import write_json, write_text
from mmlight.runs.plan.cross_validation import (
    FoldResult,
    FoldsFolder,
    format_folds,
    newest,
    read_results,
    run_folds,
)
from mmlight.runs.run.folder import Run
from mmlight.runs.run.ids import agreed_id
from mmlight.runs.run.lock import RunLock
from mmlight.signals import Interrupted
from mmlight.terminal import Terminal, say


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
    data_of = {fold.name: fold_data(data, fold, folds) for fold in folds.folds}
    _announce(folds)
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
        with RunLock(folder.run.path, instead="leave out --resume to begin another"):
            if options.resume:
                folder.check_same(plan, completed=completed)
            else:
                write_json(folder.plan, plan)
            for fold, init_args in data_of.items():
                run = {"name": folder.run.name, "id": folder.fold_run(fold).id, "test": True}
                values = {
                    **config,
                    "model": _named(config["model"], fold),
                    "data": {**config["data"], "init_args": init_args},
                    "run": {**config["run"], **run},
                }
                write_text(folder.config(fold), yaml_text.dump(values))
            asked = {"field": options.field, "k": options.k}
            planned = [
                FoldResult(f.name, f.values, f.num_samples, run=folder.fold_run(f.name).id)
                for f in folds.folds
            ]
            for result in run_folds(folder, planned, jobs=options.jobs, about=asked):
                say(result)
            Terminal().print(format_folds(read_results(folder, planned)))
            say(f"folds: {folder.summary}")
            return 0
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


def _named(value: Any, fold: str) -> Any:
    """Put a fold's name into the settings of the model that ask for it."""
    if isinstance(value, dict):
        return {key: _named(item, fold) for key, item in value.items()}
    if isinstance(value, list):
        return [_named(item, fold) for item in value]
    return value.replace("{fold}", fold) if isinstance(value, str) else value


def _announce(folds: Folds) -> None:
    for fold in folds.folds:
        values = "" if fold.values == (fold.name,) else f"  ({', '.join(fold.values)})"
        tested = f"{fold.num_samples} of {folds.num_samples} samples"
        say(f"fold {fold.name}: tested on {tested}{values}")
    if folds.num_unknown:
        field = folds.folds[0].source
        say(f"{folds.num_unknown} samples have no {field}: every fold trains on them")


def _open(config: dict[str, Any], default_name: str, *, resume: bool) -> FoldsFolder:
    settings = config["run"]
    root, name = Path(settings["root"]), settings["name"] or default_name
    if not resume:
        folder = FoldsFolder(Run.create(root, name=name, run_id=settings["id"]))
        if folder.plan.exists():
            raise UserError(f"folds: {folder.run.path} has been begun; --resume goes on with it")
        return folder
    known = settings["id"] or agreed_id(os.environ)
    found = Run(root / name / known) if known else newest(root, name=name)
    if found is None or not FoldsFolder(found).plan.exists():
        where = found.path if found is not None else root / name
        raise UserError(f"folds: nothing to go on with in {where}; leave out --resume")
    return FoldsFolder(found)
