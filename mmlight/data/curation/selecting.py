"""``mmlight shards filter``, ``split`` and ``merge``: which samples go into new shards."""

import argparse
import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmlight.data.curation.copying import class_names_of, open_shards, write_copies
from mmlight.data.curation.expression import Expression
from mmlight.data.curation.known import Known
from mmlight.data.members import Contents
from mmlight.data.packing.write import writing_alone
from mmlight.data.scan import scan
from mmlight.data.shards import index
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index_file import ShardIndex
from mmlight.errors import UserError
from mmlight.folders import made
from mmlight.terminal import note

_UNREAD = object()


def filter_shards(options: argparse.Namespace) -> list[ShardIndex]:
    """Write the samples that meet a condition.

    Raises:
        UserError: no such condition, or no sample that meets it.
    """
    corpus = open_shards(options.patterns)
    names = class_names_of(corpus)
    expression = Expression(options.expression, corpus)
    found = _ask(corpus, expression, condition=True)
    expression.check_names()
    numbers = np.flatnonzero([value is True for value in found])
    _tell_unread(found)
    note(f"{len(numbers):,} of {len(corpus):,} samples meet the condition")
    if not len(numbers):
        raise UserError(f"expression '{options.expression}': no sample meets it")
    return write_copies(
        corpus.subset(numbers), options.out, names=names, what="Writing", **_settings(options)
    )


def split_shards(options: argparse.Namespace) -> list[ShardIndex]:
    """Write samples into a folder for each part; which, their keys or groups alone decide.

    Raises:
        UserError: parts that are none, or one that would be empty.
    """
    shares = _shares(options.shares)
    corpus = open_shards(options.patterns)
    names = class_names_of(corpus)
    groups = [corpus.origin(number)[1] for number in range(len(corpus))]
    if options.by is not None:
        expression = Expression(options.by, corpus)
        found = _ask(corpus, expression, condition=False)
        expression.check_names()
        if lacking := sum(value is None or value is _UNREAD for value in found):
            raise UserError(
                f"--by {options.by}: {lacking:,} samples have none, so they belong to no group; "
                "filter them out first"
            )
        groups = [str(value) for value in found]
    # Parts of a split that are split again are not all on one side.
    salt = f"{options.seed} {' '.join(options.shares)}"
    place = np.array([_place(group, salt=salt) for group in groups])
    bounds = np.cumsum([0.0, *shares.values()])
    bounds[-1] = 1.0
    parts = np.searchsorted(bounds, place, side="right") - 1
    for number, name in enumerate(shares):
        if not (parts == number).any():
            raise UserError(
                f"--shares {name}: no sample falls into this part; make it larger, or give another "
                "--seed if these shards are a part of an equal split"
            )
    shards: list[ShardIndex] = []
    with (
        made(options.out),
        writing_alone(options.out),
        tempfile.TemporaryDirectory(prefix=".splitting-", dir=options.out) as folder,
    ):
        if there := [name for name in shares if (options.out / name).exists()]:
            raise UserError(
                f"--out {options.out}: there is {there[0]} already; name another folder"
            )
        for number, name in enumerate(shares):
            part = corpus.subset(np.flatnonzero(parts == number))
            for shard in write_copies(
                part, Path(folder, name), names=names, what=f"Writing {name}", **_settings(options)
            ):
                if shard.index_path.parent != Path(folder, name):  # of this place alone
                    shard.index_path.unlink()
        for name in shares:
            shutil.move(Path(folder, name), options.out / name)
    for number, (name, share) in enumerate(shares.items()):
        count = int((parts == number).sum())
        of = len({g for g, p in zip(groups, parts, strict=True) if p == number})
        grouped = f" in {of:,} groups" if options.by is not None else ""
        note(f"{name}: {count:,} samples{grouped}, {count / len(corpus):.1%} ({share:.1%} asked)")
        shards += index.load_or_build(sorted((options.out / name).glob("*.tar")), progress=False)
    return shards


def merge_shards(options: argparse.Namespace) -> list[ShardIndex]:
    """Write all samples of several sets as one."""
    corpus = open_shards(options.patterns)
    names = class_names_of(corpus)
    return write_copies(corpus, options.out, names=names, what="Writing", **_settings(options))


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    names = ("samples_per_shard", "overwrite", "shuffle_seed")
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def _ask(corpus: Corpus, expression: Expression, *, condition: bool) -> list[object]:
    """Return what an expression says of each sample; `_UNREAD` where that can't be read."""

    def ask(number: int) -> object:
        contents = Contents({})
        try:
            if expression.extensions:
                contents = Contents(corpus.read(number, expression.extensions))
            known = Known(corpus, number, contents)
            return expression.holds(known) if condition else expression.value(known)
        except UserError:
            raise
        except (OSError, ValueError):
            return _UNREAD  # `mmlight shards check` names it

    numbers = range(len(corpus))
    return [value for _, value in scan(numbers, ask, what="Asking", total=len(corpus))]


def _tell_unread(found: Sequence[object]) -> None:
    if count := sum(value is _UNREAD for value in found):
        note(f"left out: {count:,} samples that can't be read; `mmlight shards check` names them")


def _shares(given: Sequence[str]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for text in given:
        name, _, number = text.partition("=")
        try:
            share = float(number)
        except ValueError:
            share = 0.0
        if not name.replace("-", "").replace("_", "").isalnum() or not 0 < share < 1:
            raise UserError(f"--shares {text}: write NAME=SHARE, such as train=0.9 val=0.1")
        shares[name] = share
    if twice := [
        name for name, count in Counter(t.partition("=")[0] for t in given).items() if count > 1
    ]:
        raise UserError(f"--shares {twice[0]} comes twice")
    if abs(sum(shares.values()) - 1) > 1e-6 or len(shares) < 2:
        raise UserError(
            f"--shares {' '.join(given)}: are {sum(shares.values()):g} together; two or more that "
            "are 1 together are needed"
        )
    return shares


def _place(group: str, *, salt: str) -> float:
    """Return a number from 0 to below 1 that two texts decide."""
    text = f"{salt} {group}".encode("utf-8", "backslashreplace")
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big") / 2**56
