"""`mmlight shards filter|split|merge`: their options."""

import argparse
from collections.abc import Callable
from pathlib import Path

from mmlight.data.curation import selecting
from mmlight.data.curation.expression import Expression
from mmlight.data.shards.index_file import ShardIndex

Run = Callable[[argparse.Namespace], list[ShardIndex]]
_WRITING: dict[str, tuple[str, Run]] = {
    "filter": ("new shards of the samples that meet a condition", selecting.filter_shards),
    "split": ("new shards for each part: by hash of key, or by groups", selecting.split_shards),
    "merge": ("several sets as one, in shards of equal size", selecting.merge_shards),
}
_PATTERN_HELP = "a shard, a folder of shards, a glob, braces like {000..009}.tar, or a .txt list"


def add_to(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs that write new shards beside old ones."""
    for verb, (text, run) in _WRITING.items():
        parser = verbs.add_parser(
            verb,
            help=text,
            description=f"Write {text}. The old shards stay as they are; the new ones appear all "
            "together or not at all.",
            epilog=_about_expressions() if verb != "merge" else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if verb == "filter":
            parser.add_argument(
                "expression", metavar="CONDITION", help="such as 'width >= 64 and len(txt) > 3'"
            )
        parser.add_argument("patterns", nargs="+", metavar="PATTERN", help=_PATTERN_HELP)
        parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
        if verb == "split":
            _add_split(parser)
        else:
            parser.add_argument(
                "--overwrite", action="store_true", help="replace shards of an earlier time"
            )
        parser.add_argument(
            "--samples-per-shard", type=int, help="default: as the largest of the old shards"
        )
        parser.add_argument("--shuffle-seed", type=int, help="permute the samples with this seed")
        parser.set_defaults(write=run)


def _add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shares",
        nargs="+",
        required=True,
        metavar="NAME=SHARE",
        help="folders below OUT and their shares, such as train=0.9 val=0.1; a sample stays in its "
        "part when others come or go",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the hash (default: %(default)s)")
    parser.add_argument(
        "--by",
        metavar="VALUE",
        help="keep samples of one value together, such as json:speaker: no group is in two parts",
    )


def _about_expressions() -> str:
    return "What may be asked of a sample:\n\n" + (Expression.__doc__ or "").partition("Args:")[0]
