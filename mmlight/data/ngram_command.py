"""``mmlight ngram``: a word n-gram model from the shards' own transcripts."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from mmlight.data.checks import check_members
from mmlight.data.members import Members
from mmlight.data.ngram import NgramModel
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.data.shards.paths import expand
from mmlight.data.tokenizer_command import captions
from mmlight.errors import UserError, naming
from mmlight.terminal import say


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight ngram``."""
    parser = argparse.ArgumentParser(
        prog="mmlight ngram",
        description="Train a word n-gram model on the transcripts of shards, for LexiconDecoder.",
    )
    parser.add_argument("--shards", nargs="+", required=True, help="as in data.train.shards")
    parser.add_argument(
        "--text", default="txt", help="member with texts: txt or json:captions (default txt)"
    )
    parser.add_argument("--order", type=int, default=3, help="words of the longest n-gram (3)")
    parser.add_argument("--lowercase", action="store_true", help="fold the case of texts first")
    parser.add_argument("--out", type=Path, required=True, help="ARPA file to write")
    args = parser.parse_args(argv)
    if not 2 <= args.order <= 6:
        raise UserError(f"--order {args.order}: must be 2 to 6, which is what KenLM reads")
    corpus = Corpus(load_or_build(expand(args.shards)))
    members = Members(text=args.text)
    check_members(corpus, members, where="--shards")
    texts = captions(corpus, members)
    model = NgramModel(
        ("".join(c.lower() for c in text) if args.lowercase else text for text in texts),
        order=args.order,
    )
    if not model.words:
        raise UserError(f"--text {args.text}: the shards hold no word")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    part = args.out.with_name(f".{args.out.name}.{os.getpid()}")
    try:
        with naming(args.out), part.open("w", encoding="utf-8") as file:
            model.write(file)
        part.replace(args.out)
    finally:
        part.unlink(missing_ok=True)
    sizes = ", ".join(f"{len(model.grams(n)):,} {n}-grams" for n in range(1, args.order + 1))
    say(f"{args.out}: {model.num_sentences:,} texts, {len(model.words):,} words, {sizes}")
    return 0
