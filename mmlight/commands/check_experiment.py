"""``mmlight shards check -c FILE``: decodes what an experiment would read, and nothing else."""

from collections.abc import Sequence

from mmlight.data.checks import count_what_is_there, what_is_there
from mmlight.data.faults import faults_of
from mmlight.data.module import ShardDataModule
from mmlight.errors import UserError
from mmlight.experiment.build import assemble
from mmlight.terminal import say


def main(argv: Sequence[str]) -> int:
    """Check an experiment's data; return 1 if something is bad.

    Args:
        argv: what ``mmlight fit`` takes.

    Raises:
        UserError: anything `mmlight fit` refuses before it reads data.
    """
    experiment = assemble("fit", argv)
    data, task = experiment.data, experiment.task
    data.reads = (*task.tower_settings.given(), *task.targets)
    found = [_check(data, split) for split in data.split_names()]
    return 1 if any(found) else 0


def _check(data: ShardDataModule, split: str) -> int:
    """Say what is bad in a split; return how much it is."""
    try:
        samples = data.samples(split)
    except UserError as error:  # members or labels that no training begins with
        say(f"bad: {error}")
        return 1
    count = 0
    for place, problem in faults_of(samples, data.decoding(split)):
        say(f"bad: {place}: {problem}")
        count += 1
    verdict = f"{count} problem{'s' * (count != 1)}" if count else "all good"
    say(f"{what_is_there(split, count_what_is_there(samples))}: {verdict}")
    return count
