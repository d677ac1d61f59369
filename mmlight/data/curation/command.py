"""`mmlight shards filter|split|merge|stats|peek|dedup`: their options."""

import argparse
from collections.abc import Callable
from pathlib import Path

from mmlight.data.curation import dedup, peek, selecting, stats
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
            _add_overwrite(parser)
        parser.add_argument(
            "--samples-per-shard", type=int, help="default: as the largest of the old shards"
        )
        parser.add_argument("--shuffle-seed", type=int, help="permute the samples with this seed")
        parser.set_defaults(write=run)


def add_looking(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs that tell of shards."""
    text = "how many, how large, how long: a table, and a page with pictures"
    parser = verbs.add_parser("stats", help=text, description=f"Tell {text}.")
    parser.add_argument("patterns", nargs="+", metavar="PATTERN", help=_PATTERN_HELP)
    parser.add_argument(
        "--text", nargs="+", metavar="MEMBER", help="captions: default txt, json:caption, ..."
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page, too")
    parser.set_defaults(tell=stats.run)

    text = "some samples on one page: pictures, captions, spectrograms"
    parser = verbs.add_parser("peek", help=text, description=f"Show {text}.")
    parser.add_argument("patterns", nargs="+", metavar="PATTERN", help=_PATTERN_HELP)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="such as peek.html")
    parser.add_argument("--samples", type=int, default=50, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    parser.add_argument("--where", metavar="CONDITION", help="of samples that meet it; see filter")
    parser.set_defaults(tell=peek.run)

    text = "what is there twice: told, or new shards without it"
    parser = verbs.add_parser("dedup", help=text, description=f"Find {text}.")
    add_dedup(parser)
    parser.set_defaults(tell=dedup.run)


def add_dedup(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dedup``, whatever compares samples."""
    parser.add_argument("patterns", nargs="+", metavar="PATTERN", help=_PATTERN_HELP)
    parser.add_argument("--out", type=Path, help="write the first of each group, and all others")
    _add_overwrite(parser)
    parser.add_argument("--report", type=Path, metavar="FILE", help="the keys of each group")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--near",
        type=int,
        nargs="?",
        const=3,
        choices=range(8),
        metavar="BITS",
        help="images that differ in at most so many of 64 bits of a difference hash (3); by "
        "default only equal bytes are doubles",
    )
    how.add_argument("--model", help="a run, or a published model: alike to its eye or ear")
    parser.add_argument(
        "--least", type=float, default=0.95, help="cosine, with --model (default: %(default)s)"
    )
    parser.add_argument(
        "--member",
        nargs="+",
        metavar="EXT",
        help="what is compared; default: images and sounds, else texts",
    )


def _add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--overwrite", action="store_true", help="replace shards of an earlier time"
    )


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
