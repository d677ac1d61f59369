"""From a verb and its arguments to a configuration with every default filled in."""

import tempfile
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser

from mmlight import yaml_text
from mmlight.callbacks.measuring.probe import Probe
from mmlight.callbacks.measuring.zero_shot import ZeroShot
from mmlight.callbacks.recording.predictions import Predictions
from mmlight.callbacks.recording.run_settings import RunSettings
from mmlight.callbacks.showing.errors_table import ErrorsTable
from mmlight.callbacks.showing.explain import Explain
from mmlight.callbacks.showing.pictures import Pictures
from mmlight.config_errors import one_line
from mmlight.data.module import ShardDataModule
from mmlight.errors import UserError
from mmlight.experiment.arguments import BEST, LAST, TRAINING, Given, gather
from mmlight.experiment.keys import check_keys, without_nulls
from mmlight.experiment.messages import quieten
from mmlight.interop.saved_config import saved_config
from mmlight.own_modules import FLAG, KEY
from mmlight.saved.locate import locate
from mmlight.tasks.task import Task
from mmlight.trainer.checkpoints import CheckpointSettings
from mmlight.trainer.early_stopping import EarlyStopping
from mmlight.trainer.ema import Ema

_SCORING = ("fit", "validate", "test")
# Keys beside trainer, model and data: the callback's class, the verbs that use it, the help. The
# order matters: averaged weights are in place before anything evaluates them.
CALLBACKS: dict[str, tuple[type[Callback], tuple[str, ...], str]] = {
    "ema": (Ema, TRAINING, "Averaged weights."),
    "zero_shot": (ZeroShot, _SCORING, "Zero-shot classification."),
    "probe": (Probe, _SCORING, "Linear probe and nearest neighbours on frozen features."),
    "pictures": (Pictures, _SCORING, "Pictures and their settings."),
    "mistakes": (ErrorsTable, _SCORING, "A classifier's worst mistakes, as a table."),
    "explain": (Explain, _SCORING, "What answers rest on."),
    "predictions": (Predictions, ("predict",), "How the rows of `predict` are written."),
    "early_stopping": (EarlyStopping, ("fit",), "Stop when a metric no longer improves."),
}
# What stands at each key of the top.
ROOTS: dict[str, type] = {
    "trainer": Trainer,
    "model": Task,
    "data": ShardDataModule,
    "run": RunSettings,
    "checkpoint": CheckpointSettings,
    **{key: kind for key, (kind, _, _) in CALLBACKS.items()},
}
_DEFAULTS = {
    "trainer.deterministic": "warn",
    "trainer.enable_model_summary": False,
    "trainer.use_distributed_sampler": False,
    "trainer.num_sanity_val_steps": 0,
}
# Predictions are written as they come; Lightning would keep them all in memory. Its table of scores
# would stand beside ours.
_DEFAULTS_OF = {
    "predict": {"return_predictions": False},
    "validate": {"verbose": False},
    "test": {"verbose": False},
}
_NOT_SETTINGS = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}


def make_parser(verb: str) -> LightningArgumentParser:
    """Return the parser of a verb's settings.

    Args:
        verb: one of fit, validate, test and predict.
    """
    parser = LightningArgumentParser(
        prog=f"mmlight {verb}",
        description=f"mmlight {verb}: settings may stand in YAML (-c FILE) or follow as flags.",
        exit_on_error=False,
        parser_mode=yaml_text.parser_mode(),
    )
    add = parser.add_argument
    add("-c", "--config", action="config", help="An experiment, as YAML.")
    text = "Seeds all randomness; true draws a seed, false leaves it out."
    add("--seed_everything", type=bool | int, default=0, help=text)
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.add_lightning_class_args(Task, "model", subclass_mode=True)
    parser.add_lightning_class_args(ShardDataModule, "data", subclass_mode=True)
    parser.add_class_arguments(RunSettings, "run")
    parser.add_class_arguments(CheckpointSettings, "checkpoint")
    for key, (kind, _, text) in CALLBACKS.items():
        add(f"--{key}", type=kind | None, default=None, help=text)
    text = "Modules of your own to import; checkpoints may name their classes."
    add(FLAG, type=list[str] | None, default=None, help=text)
    parser.add_method_arguments(Trainer, verb, skip=_NOT_SETTINGS)
    parser.set_defaults(_DEFAULTS | _DEFAULTS_OF.get(verb, {}))
    return parser


@dataclass
class Parsed:
    """A command, parsed.

    Attributes:
        verb: one of fit, validate, test and predict.
        config: its configuration, with every default filled in.
        parser: what it was parsed with.
        name: the experiment's name where `run.name` is None.
    """

    verb: str
    config: Namespace
    parser: LightningArgumentParser
    name: str

    def plain(self) -> dict[str, Any]:
        """Return the configuration as plain values, which run again as they stand."""
        # Else the parser would write what only looks like a number or a list as one.
        config = yaml_text.guarded(self.config.clone())
        written = self.parser.dump(config, skip_none=False, skip_validation=True)
        values: dict[str, Any] = yaml_text.plain(yaml_text.load(written))
        unset = [KEY] if values[KEY] is None else []  # ids of jobs are hashes of what is set
        return {k: v for k, v in values.items() if k not in ("config", "ckpt_path", *unset)}


def parse(verb: str, arguments: Sequence[str]) -> Parsed:
    """Parse a command; `predict` without a configuration takes the checkpoint's.

    Args:
        verb: one of fit, validate, test and predict.
        arguments: what follows it on the command line.

    Raises:
        UserError: what cannot be parsed, in one line.
    """
    quieten()
    given = gather(verb, arguments)
    if verb == "predict" and set(given.values) <= {KEY}:
        given = _of_checkpoint(given)
    given = replace(given, values=without_nulls(given.values, ROOTS))
    parser = make_parser(verb)
    try:
        config = yaml_text.plain(parser.parse_args(given.for_parser()))
    except ArgumentError as error:
        check_keys(given, ROOTS)
        known = list(parser.get_defaults(skip_validation=True).keys())
        raise UserError(one_line(str(error), known_keys=known)) from error
    return Parsed(verb, config, parser, given.name)


def _of_checkpoint(given: Given) -> Given:
    """Take model and data preparation of `predict` from the checkpoint that is named."""
    flags = list(given.flags)
    for place, argument in enumerate(flags):
        flag, equals, value = argument.partition("=")
        if flag != "--ckpt_path":
            continue
        if not equals:
            value = flags.pop(place + 1) if place + 1 < len(flags) else ""
        if value in (LAST, BEST):
            raise UserError(
                f"predict --ckpt_path {value} needs -c CONFIG, whose newest run is meant; or name "
                f"a checkpoint or a run's folder (RUN_FOLDER/{value})"
            )
        found = locate(value, key="--ckpt_path")
        if not any(flag.startswith("--data.") for flag in flags):
            raise UserError("predict needs something to read: --data.predict.files PATH")
        flags[place] = f"--ckpt_path={found.path}"
        name = found.run.name if found.run is not None else ""
        return Given({**saved_config(found.path), **given.values}, flags, name or "predict")
    return Given(given.values, flags, "predict")


def resolve(arguments: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Return the configuration that a command would run with, every default filled in.

    Args:
        arguments: a training verb and what follows it on the command line.

    Returns:
        The configuration as plain values, and the experiment's name where `run.name` is None.

    Raises:
        UserError: what cannot be parsed.
    """
    parsed = parse(arguments[0], arguments[1:])
    return parsed.plain(), parsed.name


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration that an earlier version wrote as this one would have written it.

    Settings that have come since have their defaults, renamed ones their present names. One that
    can no longer be parsed stays as it is.

    Args:
        config: of `fit`, as `resolve` returned it.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(yaml_text.dump(config))
        try:
            return resolve(["fit", "-c", str(file)])[0]
        except UserError:
            return dict(config)
