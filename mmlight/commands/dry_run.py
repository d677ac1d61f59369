"""``mmlight fit --dry_run``: what an experiment reads, builds and costs, without doing it."""

import argparse
import glob
from collections.abc import Sequence

from braceexpand import braceexpand

from mmlight.commands.cost import CostOptions, add_options, checked, foretell_experiment, show
from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.splits.split import Split
from mmlight.experiment.absent import assemble_absent
from mmlight.runs.show.grid import Column, Grid
from mmlight.terminal import say


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight fit --dry_run``.

    Raises:
        UserError: what `mmlight fit` refuses before it reads data.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight fit --dry_run",
        description="Build an experiment without its data and without numbers: say what it would "
        "read, what its model consists of, and what training costs. Takes what `mmlight fit` "
        "takes. Nothing is fetched, and no run's folder is made.",
        allow_abbrev=False,
    )
    add_options(parser)
    options, rest = parser.parse_known_args(list(argv), CostOptions(is_blank=True))
    checked(options)
    experiment, notes = assemble_absent(rest)
    found = foretell_experiment(experiment, experiment.task, options=options)
    say(f"{experiment.name}: {type(experiment.task).__name__}, seed {experiment.data.seed}")
    _show_data(experiment.data)
    show(found, options, name=experiment.name)
    say(*notes, *found.notes)
    return 0


def _show_data(data: ShardDataModule) -> None:
    rows = []
    for name, splits in data.splits().items():
        for split in splits:
            rows.append((name, _where(split), _members(split.members or data.members)))
    columns = (Column("split"), Column("shards", wraps=True), Column("members", wraps=True))
    Grid(columns, tuple(rows)).print()
    sizes = []
    if (image := data.image) is not None:
        sizes.append(f"images {image.side} x {image.side} px, {image.num_channels} channels")
    if (text := data.text) is not None:
        vocabulary = f"{text.known_tokenizer.vocab_size:,} ids of {type(text.tokenizer).__name__}"
        sizes.append(f"texts of {text.most_tokens} tokens, {vocabulary}")
    if (audio := data.audio) is not None:
        sizes.append(f"sounds of {audio.seconds:g} s at {audio.rate_hz:,} Hz")
    say("", *sizes, f"{data.global_batch_size:,} samples a step", "")


def _where(split: Split) -> str:
    shards = [split.shards] if isinstance(split.shards, str) else list(split.shards)
    near = [shard for shard in shards if "://" not in shard]
    there = all(glob.glob(next(iter(braceexpand(shard)))) for shard in near)
    return f"{', '.join(shards)}{'' if there else ' (not here)'}"


def _members(members: Members) -> str:
    groups = members.groups()
    if members.class_captions:
        groups["text"] = members.class_captions
    return ", ".join(f"{name} {'|'.join(sources)}" for name, sources in groups.items())
