"""``mmlight scenes OUT``: makes the quickstart's data set, without any download."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmlight.data.scenes.scene import MAX_EVAL_SAMPLES, SPLITS
from mmlight.data.scenes.shards import Settings, make
from mmlight.errors import UserError
from mmlight.terminal import say


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight scenes``."""
    defaults = Settings()
    parser = argparse.ArgumentParser(
        prog="mmlight scenes",
        description="Make the quickstart's data set: pictures of two coloured shapes, sentences "
        "about them and a synthetic voice that names them, in train, val and test shards. Every "
        "object of test is a combination of colour and shape that training never shows.",
    )
    parser.add_argument("out", type=Path, help="folder to make, such as data/scenes")
    parser.add_argument(
        "--samples",
        type=int,
        default=defaults.samples,
        help="training scenes (default %(default)s)",
    )
    parser.add_argument(
        "--eval-samples",
        type=int,
        default=defaults.eval_samples,
        help=f"scenes of val and of test, at most {MAX_EVAL_SAMPLES} (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="default %(default)s")
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes (default %(default)s); the result does not depend on it",
    )
    args = parser.parse_args(argv)
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: at least 1 process is needed")
    settings = Settings(samples=args.samples, eval_samples=args.eval_samples, seed=args.seed)
    made = make(args.out, settings=settings, workers=args.workers, progress=sys.stderr.isatty())
    sizes = ", ".join(f"{split} {settings.count(split)}" for split in SPLITS)
    say(f"{args.out}: {sizes} scenes" if made else f"{args.out}: already there ({sizes} scenes)")
    return 0
