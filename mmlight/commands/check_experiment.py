"""``mmlight shards check -c FILE``: decodes what an experiment would read, and nothing else."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mmlight.data.module import ShardDataModule
from mmlight.data.needed import count_what_is_there, what_is_there
from mmlight.data.split_check import faults_of
from mmlight.errors import UserError
from mmlight.experiment.arguments import expand_configs
from mmlight.experiment.build import MmlightCLI
from mmlight.experiment.quiet import quieten
from mmlight.terminal import say


def main(argv: Sequence[str]) -> int:
    """Check an experiment's data; return 1 if something is bad.

    Args:
        argv: what ``mmlight fit`` takes.

    Raises:
        UserError: anything `mmlight fit` refuses before it reads data.
    """
    quieten()
    expanded, name = expand_configs(argv)
    return _Check(["fit", *expanded], default_name=name).exit_code()


class _Check(MmlightCLI):
    """Builds what ``fit`` builds, but no trainer, no towers and no run."""

    _num_bad = 0

    def _parse_ckpt_path(self) -> None:
        self._is_new_run = False

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Build none."""
        return None

    def _run_subcommand(self, subcommand: str) -> None:
        data: ShardDataModule = self.datamodule
        data.reads = (*self.model.tower_settings.given(), *self.model.targets)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            for split in data.split_names():
                self._check(data, split, threads)

    def _check(self, data: ShardDataModule, split: str, threads: ThreadPoolExecutor) -> None:
        try:
            samples = data.samples(split)
        except UserError as error:  # members or labels that no training begins with
            say(f"bad: {error}")
            self._num_bad += 1
            return
        count = 0
        for place, problem in faults_of(samples, data.decoding(split), threads):
            say(f"bad: {place}: {problem}")
            count += 1
        verdict = f"{count} problem{'s' * (count != 1)}" if count else "all good"
        say(f"{what_is_there(split, count_what_is_there(samples))}: {verdict}")
        self._num_bad += count

    def exit_code(self) -> int:
        """Return 1 if something was bad."""
        return 1 if self._num_bad else 0
