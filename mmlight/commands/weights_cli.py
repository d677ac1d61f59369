"""What commands that make weights out of weights share: scoring them on an experiment's data."""

import argparse
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from mmlight.callbacks.measuring.zero_shot import ZeroShot
from mmlight.errors import UserError
from mmlight.experiment.arguments import expand_configs
from mmlight.experiment.build import MmlightCLI
from mmlight.experiment.quiet import quieten
from mmlight.interop.averaging import Tensors, has_batch_norm, recompute_batch_norm
from mmlight.scores import chosen_direction
from mmlight.tasks.task import Task
from mmlight.terminal import Terminal

STAGES = ("val", "test")


class WeightsCLI(MmlightCLI):
    """Builds an experiment's data and trainer, and hands over to `work`.

    The model is that of the checkpoints; of the experiment's settings those of `data`, `trainer`,
    `run` and `zero_shot` count.

    Args:
        arguments: what follows the verb's own options on the command line.
        default_name: the experiment's name.
        kind: begins the id of the run's folder.
        work: does the verb's work with this object, once data and trainer are built.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        default_name: str,
        kind: str,
        checkpoint: Path,
        work: "Callable[[WeightsCLI], None]",
    ) -> None:
        self._kind = kind
        self._work = work
        self.console = Terminal(soft_wrap=True)
        super().__init__(
            ["test", *arguments, f"--ckpt_path={checkpoint}"], default_name=default_name
        )

    def _parse_ckpt_path(self) -> None:
        settings = self.config["test"]["run"]
        stamp = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        settings["id"] = f"{self._kind}-{settings['id'] or stamp}"
        super()._parse_ckpt_path()

    def watchers(self) -> tuple[list[Callback], list[Any]]:
        """Return zero-shot classification alone: what is logged of one test is not another's."""
        callbacks, _ = super().watchers()
        return [callback for callback in callbacks if isinstance(callback, ZeroShot)], []

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Build a trainer without a bar and without logs."""
        self.config_init["test"]["trainer"]["enable_progress_bar"] = False
        self.config_init["test"]["trainer"]["logger"] = False
        return super().instantiate_trainer(**kwargs)

    def test(self, **_: Any) -> None:
        """Do the verb's work."""
        self._work(self)

    def after_test(self) -> None:
        """Do nothing: what there is to tell was told."""

    def tell(self, text: Any) -> None:
        """Print on rank 0."""
        if self.trainer.is_global_zero:
            self.console.print(text)

    def check_data(self, task: Task) -> None:
        """Refuse data whose classes are not the model's.

        Raises:
            UserError: they are not.
        """
        ours = (task.preprocessing or {}).get("class_names") or []
        theirs = self.datamodule.preprocessing().get("class_names") or []
        if list(ours) != list(theirs):
            raise UserError(
                f"data.class_names are {theirs or 'none'}, but the checkpoint's are "
                f"{ours or 'none'}; give the config it was trained with"
            )

    def stages(self) -> list[str]:
        """Return which of val and test the data has."""
        return [name for name in STAGES if name in self.datamodule.split_names()]

    def score(self, task: Task, stage: str, *, data: Any = None) -> dict[str, float]:
        """Return the scores of a model on val or test, named without the stage.

        Every rank calls it.

        Args:
            task: the model.
            stage: ``val`` or ``test``.
            data: other data than the experiment's.
        """
        run = self.trainer.validate if stage == "val" else self.trainer.test
        run(task, datamodule=data if data is not None else self.datamodule, verbose=False)
        prefix = f"{stage}/"
        return {
            name.removeprefix(prefix): float(value)
            for name, value in self.trainer.callback_metrics.items()
            if name.startswith(prefix)
        }

    def put(self, task: Task, tensors: Tensors, *, num_batches: int) -> None:
        """Give a model weights; then new statistics of its batch norms, where asked for.

        Args:
            task: the model.
            tensors: its new weights.
            num_batches: of training data, for statistics; 0 leaves those in `tensors`.
        """
        task.load_state_dict(tensors)
        if num_batches:
            data = self.datamodule.with_corruptions([])
            data.setup("fit")
            recompute_batch_norm(task, islice(data.train_dataloader(), num_batches))
            data.teardown("fit")

    def save(self, task: Task, path: Path) -> None:
        """Write a checkpoint that every verb takes; it has no state of an optimiser."""
        self.trainer.strategy.connect(task)
        self.trainer.save_checkpoint(path, weights_only=True)


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, list[str], str]:
    """Return a verb's own options, the other arguments with configs expanded, and the name.

    Raises:
        UserError: no config, or `--ckpt_path`.
    """
    options, rest = parser.parse_known_args(list(argv))
    if any(argument.partition("=")[0] == "--ckpt_path" for argument in rest):
        raise UserError(f"{parser.prog} takes no --ckpt_path; it names its checkpoints itself")
    if not any(argument.partition("=")[0] in ("-c", "--config") for argument in rest):
        raise UserError(f"{parser.prog} needs -c CONFIG, which says what to score on")
    quieten()
    expanded, name = expand_configs(rest)
    return options, expanded, name


def check_batch_norm(task: Task, num_batches: int, data: Any) -> None:
    """Refuse statistics that nothing has, or that nothing can be made of.

    Raises:
        UserError: as above.
    """
    if num_batches < 0:
        raise UserError(f"--recompute-batch-norm {num_batches}: must be 0 or more")
    if num_batches and not has_batch_norm(task):
        raise UserError("--recompute-batch-norm has no effect: the model has no batch norm")
    if num_batches and "train" not in data.split_names():
        raise UserError("--recompute-batch-norm needs data.train, which is not set")


def sign_of(metric: str) -> int:
    """Return 1 where more of a validation's metric is better, else -1."""
    way = chosen_direction(f"val/{metric}", remedy="choose by another, with --metric")
    return 1 if way == "max" else -1
