"""`mmlight shards check` against the decoding of the same images by nothing but a decoder.

Purpose
    How much of what all cores can decode is left when checksums, labels, keys and formats are
    looked at, too.

Command
    python experiments/bench/check_shards.py            # two minutes
    python experiments/bench/check_shards.py --quick    # a thirtieth of the images, seconds

Hardware
    Any CPU, with nothing else running.

What is measured
    JPEG images with a label each: photos (noise in large spots) of 400 x 300 pixels, and tiny ones
    of 32 x 32, where all that is done besides decoding weighs most. In turn, `shards check`, with
    the start of its processes where it has some, and without imports; and as many processes as
    there are cores that decode the images, which they hold in memory, by
    `mmlight.data.decode.image.check_image`, timed without their start. Medians of the repeats.
"""

import argparse
import io
import json
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from mmlight.data.decode.image import check_image
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.data.shards.paths import expand
from mmlight.data.shards.seal import SealedWriter
from mmlight.data.shards_command import main as main_of_shards

CORES = len(os.sched_getaffinity(0))
SHARDS = 8


@dataclass(frozen=True)
class Images:
    """Images of a kind: how many, and their size in pixels."""

    count: int
    width: int
    height: int


KINDS = {"photos": Images(12_000, 400, 300), "tiny": Images(90_000, 32, 32)}


def make_shards(folder: Path, images: Images) -> None:
    """Write shards and their indexes."""
    draws = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(SHARDS):
        with SealedWriter(folder / f"{number:02d}.tar") as writer:
            for sample in range(images.count // SHARDS):
                spots = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                image = Image.fromarray(spots).resize((images.width, images.height))
                file = io.BytesIO()
                image.save(file, "JPEG", quality=90)
                writer.add(f"{number:02d}-{sample:06d}.jpg", file.getvalue())
                writer.add(f"{number:02d}-{sample:06d}.cls", str(sample % 10).encode())
    load_or_build(expand(str(folder)), progress=False)


def check(folder: Path) -> float:
    """Check shards; return seconds."""
    begin = time.perf_counter()
    with redirect_stdout(io.StringIO()):
        assert main_of_shards(["check", str(folder)]) == 0
    return time.perf_counter() - begin


_held: list[bytes] = []


def hold(folder: str) -> None:
    """Read a process's share of the images, and decode some."""
    corpus = Corpus(load_or_build(expand(folder), progress=False))
    share = range(0, len(corpus), CORES)
    _held.extend(corpus.read(number, ["jpg"])["jpg"] for number in share)
    decode(50)


def decode(count: int) -> float:
    """Decode so many of the images; return seconds."""
    begin = time.perf_counter()
    for number in range(count):
        check_image(_held[number % len(_held)])
    return time.perf_counter() - begin


def limit(folder: Path, count: int) -> float:
    """Return the seconds in which all cores decode so many images, those of a folder."""
    context = get_context("spawn")
    with ProcessPoolExecutor(CORES, context, initializer=hold, initargs=(str(folder),)) as pool:
        list(pool.map(decode, [1] * CORES * 4))  # all have started
        return max(pool.map(decode, [count // CORES] * CORES))


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare shards check with decoding alone.")
    parser.add_argument("--quick", action="store_true", help="a thirtieth of the images")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for name, kind in KINDS.items():
            images = Images(kind.count // (30 if options.quick else 1), kind.width, kind.height)
            folder = Path(temporary, name)
            make_shards(folder, images)
            count = images.count // SHARDS * SHARDS
            checked, decoded = [], []
            check(folder)  # imports
            for _ in range(options.repeats):
                checked.append(count / check(folder))
                decoded.append(count / limit(folder, count))
            ours, best = statistics.median(checked), statistics.median(decoded)
            found = {"images": name, "cores": CORES, "count": count, "check_per_s": round(ours)}
            print(json.dumps(found | {"decode_per_s": round(best), "ratio": round(ours / best, 2)}))


if __name__ == "__main__":
    main()
