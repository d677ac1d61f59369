"""`mmlight fit|validate|test|predict`: a thin LightningCLI over one YAML per experiment."""

import logging
import os
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from mmlight import compose
from mmlight.callbacks.checkpoints import AtomicCheckpointIO, CheckpointSettings
from mmlight.callbacks.ema import Ema
from mmlight.callbacks.embeddings import EmbeddingWriter
from mmlight.callbacks.pictures import Pictures
from mmlight.callbacks.progress import Progress
from mmlight.callbacks.record import Record
from mmlight.callbacks.throughput import Throughput
from mmlight.callbacks.zero_shot import ZeroShot
from mmlight.config_errors import one_line
from mmlight.data.module import ShardDataModule
from mmlight.errors import UserError
from mmlight.runs.run import RunFolder
from mmlight.tasks.task import Task, read_checkpoint

LAST = "last"


@dataclass
class RunSettings:
    """Where a run lives and who hears of it.

    Attributes:
        name: the experiment's name; None takes the name of the last config file.
        root: the folder of all runs; a run's own folder is `root/name/id`.
        id: the run's id; None takes SLURM's job id, or a fresh one.
        wandb: whether W&B gets what the run folder gets; `offline` needs no network.
        wandb_project: W&B's project.
        wandb_entity: W&B's user or team; None takes the account's default.
        test: after training, score the test set with the final weights.
    """

    name: str | None = None
    root: str = "runs"
    id: str | None = None
    wandb: Literal["off", "online", "offline"] = "off"
    wandb_project: str = "mmlight"
    wandb_entity: str | None = None
    test: bool = False


class MmlightCLI(LightningCLI):
    """Adds the run folder, checkpoints, EMA, zero-shot, pictures and logging to LightningCLI."""

    def __init__(self, arguments: Sequence[str], *, default_name: str) -> None:
        self._default_name = default_name
        verbs = self.subcommands()
        super().__init__(
            Task,
            ShardDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults={
                "deterministic": "warn",
                "enable_model_summary": False,
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
            },
            parser_kwargs={
                "exit_on_error": False,
                **{verb: {"exit_on_error": False} for verb in verbs},
            },
            args=list(arguments),
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the settings of a run, beside trainer, model and data."""
        parser.add_class_arguments(RunSettings, "run")
        parser.add_class_arguments(CheckpointSettings, "checkpoint")
        parser.add_argument("--ema", type=Ema | None, default=None, help="Averaged weights.")
        parser.add_argument(
            "--zero_shot", type=ZeroShot | None, default=None, help="Zero-shot classification."
        )
        parser.add_argument(
            "--pictures", type=Pictures | None, default=None, help="Pictures and their settings."
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and say in one line what cannot be parsed."""
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            known = [a.dest for p in self._subcommand_parsers.values() for a in p._actions]
            raise UserError(one_line(str(error), known_keys=known)) from error

    def _parse_ckpt_path(self) -> None:
        """Find the run folder; a checkpoint's own settings never override what was asked for."""
        verb = self.config["subcommand"]
        config = self.config[verb]
        settings = config["run"]
        name = settings["name"] or self._default_name
        settings["name"] = name
        asked = config.get("ckpt_path")
        if asked == LAST:
            self.run = RunFolder.latest(settings["root"], name=name)
            config["ckpt_path"] = str(self.run.newest_checkpoint())
        else:
            if asked is not None and not Path(asked).is_file():
                raise UserError(f"--ckpt_path {asked}: no such file; '{LAST}' takes the newest")
            if verb != "fit" and asked is None:
                raise UserError(
                    f"{verb} needs trained weights: --ckpt_path FILE, or --ckpt_path {LAST}"
                )
            self.run = RunFolder.create(settings["root"], name=name, run_id=settings["id"])
        if config.get("ckpt_path") is not None:
            read_checkpoint(Path(config["ckpt_path"]))
        if verb != "fit" and asked == LAST:
            # What an evaluation writes lies beside what training wrote, not over it.
            self.run = self.run.below(verb)
            self.run.path.mkdir(exist_ok=True)

    def resolved_config(self) -> dict[str, Any]:
        """Return the configuration with every default filled in, which runs again as it stands."""
        verb = str(self.subcommand)
        values: dict[str, Any] = yaml.safe_load(
            self._subcommand_parsers[verb].dump(
                self.config[verb], skip_none=False, skip_validation=True
            )
        )
        return {k: v for k, v in values.items() if k not in ("config", "ckpt_path")}

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, with everything of the run in the run's folder."""
        verb = str(self.subcommand)
        checkpoint: CheckpointSettings = self._get(self.config_init, "checkpoint")
        settings: RunSettings = self._get(self.config_init, "run")
        self.record = Record(
            self.run,
            verb=verb,
            config=self.resolved_config(),
            wandb=settings.wandb,
            wandb_project=settings.wandb_project,
            wandb_entity=settings.wandb_entity,
        )
        callbacks: list[Callback] = [Progress(), self.record]
        if verb == "fit":
            callbacks += [Throughput(), LearningRateMonitor(logging_interval="step")]
        if verb == "predict":
            callbacks.append(EmbeddingWriter(self.run.embeddings))
        # The order matters: averaged weights are in place before anything evaluates them.
        for key in ("ema", "zero_shot", "pictures"):
            extra = self._get(self.config_init, key)
            if extra is not None and (key == "ema" or verb != "predict"):
                callbacks.append(extra)
        if verb == "fit":
            callbacks += checkpoint.callbacks(self.run.checkpoints)
        trainer = dict(self._get(self.config_init, "trainer", default={}))
        own = trainer.pop("callbacks", None) or []
        plugins = trainer.pop("plugins", None) or []
        logger = trainer.pop("logger", None)
        loggers: list[Any] = list(self.record.loggers())
        if logger is False:
            loggers = []
        elif logger not in (None, True):
            loggers = [*loggers, *(logger if isinstance(logger, list) else [logger])]
        trainer |= {
            "callbacks": [*callbacks, *(own if isinstance(own, list) else [own])],
            "plugins": [
                AtomicCheckpointIO(),
                *(plugins if isinstance(plugins, list) else [plugins]),
            ],
            "logger": loggers,
            "default_root_dir": str(self.run.path),
        }
        return Trainer(**trainer, **kwargs)

    def after_fit(self) -> None:
        """Score the test set if asked, then write the report."""
        settings: RunSettings = self._get(self.config_init, "run")
        if settings.test:
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        self.record.conclude(self.trainer)

    def after_validate(self) -> None:
        """Write the report."""
        self.record.conclude(self.trainer)

    after_test = after_validate
    after_predict = after_validate


def expand_configs(arguments: Sequence[str]) -> tuple[list[str], str]:
    """Replace each ``-c FILE`` by the files it extends, as inline configurations.

    Returns:
        The arguments for the parser, and the name of the last file (the experiment's name).
    """
    expanded: list[str] = []
    name = "run"
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag not in ("-c", "--config"):
            expanded.append(argument)
            continue
        if not equals:
            value = next(rest, "")
        if not value:
            raise UserError(f"{flag} needs the path of a config file")
        path = Path(value)
        name = path.parent.parent.name if path.name == "config.yaml" else path.stem
        for layer in compose.expand(path):
            if layer.values:
                expanded.append(f"--config={yaml.safe_dump(layer.values, sort_keys=False)}")
    return expanded, name


def main(arguments: Sequence[str]) -> int:
    """Run one of the training verbs.

    Raises:
        UserError: anything a user did wrong.
    """
    _quieten()
    verb = arguments[0]
    rest, name = expand_configs(arguments[1:])
    MmlightCLI([verb, *rest], default_name=name)
    return 0


def _quieten() -> None:
    # Lightning announces its own advice on every start; what matters is in the run folder.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"jsonargparse.*")
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    sys.argv = sys.argv[:1] if "pytest" in sys.modules else sys.argv
