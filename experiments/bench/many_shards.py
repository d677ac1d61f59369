"""Starting on many shards: what it costs to open a data set of 20,000 shards.

Purpose
    How many CPU-seconds pass between the data module's settings and its first batch, when all
    shards are indexed already: what a training that is requeued pays each time.

Command
    python experiments/bench/many_shards.py            # two to four minutes, most of it to write
    python experiments/bench/many_shards.py --quick    # 500 shards, seconds

Hardware
    Any CPU with 1 GB in the temporary folder; it says nothing about a network file system.

What is measured
    Shards of five texts each, indexed once. Then `prepare_data`, `setup`, the fingerprint that a
    checkpoint holds and the first batch, in one process: CPU-seconds (user + system) of it and its
    children, medians of the repeats. Imports are left out.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

from mmlight.data.dataset import Rank
from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.shards.index import load_or_build
from mmlight.data.shards.paths import expand
from mmlight.data.shards.seal import SealedWriter
from mmlight.data.splits.split import Split
from mmlight.data.text import TextSettings
from mmlight.text.tokenizer import ByteTokenizer

SAMPLES_PER_SHARD = 5


def make_shards(folder: Path, count: int) -> None:
    """Write shards and their indexes."""
    for number in range(count):
        with SealedWriter(folder / f"{number:05d}.tar") as writer:
            for sample in range(SAMPLES_PER_SHARD):
                writer.add(f"{number:05d}-{sample}.txt", f"caption {sample}".encode())
    load_or_build(expand(str(folder)), progress=False)


def start(folder: Path) -> float:
    """Open the shards as training does; return CPU-seconds."""
    before = sum(os.times()[:4])
    data = ShardDataModule(
        members=Members(text="txt"),
        train=Split(str(folder)),
        text=TextSettings(tokenizer=ByteTokenizer()),
        global_batch_size=SAMPLES_PER_SHARD,
        num_workers=0,
    )
    data.prepare_data()
    data.setup("fit")
    data.fingerprint()
    assert len(data.train_batches(Rank())[0].keys) == SAMPLES_PER_SHARD
    return sum(os.times()[:4]) - before


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure starts on many shards.")
    parser.add_argument("--quick", action="store_true", help="500 shards instead of 20,000")
    parser.add_argument("--repeats", type=int, default=3, help="measured starts (3)")
    arguments = parser.parse_args()
    count = 500 if arguments.quick else 20_000
    with tempfile.TemporaryDirectory() as name:
        make_shards(Path(name), count)
        seconds = [start(Path(name)) for _ in range(max(1, arguments.repeats))]
    figures = {
        "num_shards": count,
        "start_cpu_s": round(statistics.median(seconds), 3),
        "start_cpu_s_all": [round(value, 3) for value in seconds],
    }
    print(f"a start on {count:,} shards: {figures['start_cpu_s']} CPU-s")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
