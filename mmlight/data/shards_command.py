"""`mmlight shards`: look into shards, verify them, write them from other things and from shards."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmlight.data.curation import command as curation_command
from mmlight.data.packing import command as pack_command
from mmlight.data.shards import index
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index_file import ShardIndex
from mmlight.data.shards.paths import expand
from mmlight.errors import UserError
from mmlight.terminal import Terminal, say

# Floors above this one, where `mmlight` finds them.
_OF_MODELS = (
    "With a run's model: score (how well image and text fit) and caption, written into the JSON of "
    "samples in new shards; see mmlight shards score --help."
)
_PATTERN_HELP = "a shard, a folder of shards, a glob, braces like {000..009}.tar, or a .txt list"


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight shards``; return its exit code (1 if `check` found something bad)."""
    parser = argparse.ArgumentParser(prog="mmlight shards", description=__doc__, epilog=_OF_MODELS)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_index(verbs.add_parser("index", help="build indexes and print what the shards hold"))
    _add_check(
        verbs.add_parser(
            "check",
            help="verify checksums and decode every member",
            description="Verify checksums and decode every member. With -c EXPERIMENT in place of "
            "patterns: decode what this experiment reads of its splits, as its training does.",
        )
    )
    pack_command.add_to(
        verbs.add_parser("pack", help="write shards: from a folder, a table, VOC, COCO, CoNLL, ...")
    )
    curation_command.add_to(verbs)
    curation_command.add_looking(verbs)
    options = parser.parse_args(argv)
    if hasattr(options, "tell"):
        code: int = options.tell(options)
        return code
    if hasattr(options, "write"):
        _print_summary(options.write(options))
        return 0
    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers {options.workers} must be at least 1")
    if options.verb == "check":
        from mmlight.data.curation import check  # needs torch, which `index` and `pack` do without

        return check.run(options)
    shards = index.load_or_build(
        expand(options.patterns),
        workers=options.workers,
        rebuild=options.rebuild,
        max_member_bytes=options.max_member_bytes,
    )
    index.publish(shards)
    _print_summary(shards)
    return 0


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("patterns", nargs="+", metavar="PATTERN", help=_PATTERN_HELP)
    parser.add_argument("--rebuild", action="store_true", help="build also what is up to date")
    parser.add_argument("--workers", type=int, help="processes; default one per core, at most 16")
    parser.add_argument(
        "--max-member-bytes",
        type=int,
        default=index.DEFAULT_MAX_MEMBER_BYTES,
        help="refuse shards with a larger member (default: %(default)s)",
    )


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("patterns", nargs="+", metavar="PATTERN", help=_PATTERN_HELP)
    parser.add_argument(
        "--workers", type=int, help="threads, or processes of much data; default one per core"
    )
    parser.add_argument(
        "--class-names",
        metavar="FILE",
        help="a name per line; labels may be these. Default: classnames.txt beside the shards",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="all that is bad, as lines of JSON"
    )


def _print_summary(shards: Sequence[ShardIndex]) -> None:
    from rich import box
    from rich.table import Table

    corpus = Corpus(shards)
    num_bytes = sum(shard.num_bytes for shard in shards)
    sizes = np.array([shard.num_samples for shard in shards])
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_row("shards", f"{len(shards):,} ({num_bytes / 1e6:,.1f} MB)")
    table.add_row("samples", f"{len(corpus):,} ({sizes.min():,} to {sizes.max():,} per shard)")
    for extension, count in sorted(corpus.extensions().items(), key=lambda item: -item[1]):
        share = "all" if count == len(corpus) else f"{count / len(corpus):.1%} of"
        table.add_row(f"  .{extension}", f"{count:,} ({share} samples)")
    durations = corpus.durations[~np.isnan(corpus.durations)]
    if len(durations):
        low, middle, high = np.quantile(durations, [0, 0.5, 1])
        spread = f"{low:.2f} / {middle:.2f} / {high:.2f} s min / median / max"
        table.add_row("sound", f"{durations.sum() / 3600:,.2f} h ({spread})")
    images = corpus.image_sizes[corpus.image_sizes[:, 0] > 0]
    if len(images):
        (w0, h0), (w1, h1), (w2, h2) = np.quantile(images, [0, 0.5, 1], axis=0).astype(int)
        table.add_row("image", f"{w0}x{h0} / {w1}x{h1} / {w2}x{h2} px min / median / max")
    if ignored := sum(shard.num_ignored for shard in shards):
        table.add_row("ignored", f"{ignored:,} members that belong to no sample")
    Terminal().print(table)
    # Not in the table, which would cut them at the width of the terminal.
    folders = sorted({str(shard.index_path.parent) for shard in shards})
    more = f" and {len(folders) - 1} more folders" if len(folders) > 1 else ""
    say(f"indexes: {folders[0]}{more}")
    say(f"fingerprint: {corpus.fingerprint()}")
