"""Padding of clips of 1 to 30 s: how much of a batch is silence, with and without buckets.

Purpose
    How large a part of the waveforms that reach a tower is padding to the longest clip of their
    batch, in the random order and with `data.bucket_batches`.

Command
    python experiments/bench/padding.py            # a minute
    python experiments/bench/padding.py --quick    # an eighth of the clips, seconds

Hardware
    Any CPU: the order decides, not the machine.

What is measured
    Clips whose durations are drawn evenly on a logarithmic scale from 1 to 30 s (half of them are
    shorter than 5.5 s), as FLAC files of a low sampling rate in shards. A `ShardDataModule` of each
    setting loads an epoch of training in batches of one rank; padding is 1 - (real samples) /
    (samples of the tensors), over the epoch.
"""

import argparse
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from mmlight.data.dataset import Rank, Refusal
from mmlight.data.decode.audio import AudioSettings
from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.shards.seal import SealedWriter
from mmlight.data.splits.split import Split

RATE_HZ = 1000
SHORTEST_S, LONGEST_S = 1.0, 30.0
SHARDS = 16
POOLS = (None, 8, 16, 32, 64)


def make_shards(folder: Path, count: int) -> None:
    """Write shards of noise, `count` clips of all lengths."""
    draws = np.random.default_rng(0)
    for number in range(SHARDS):
        with SealedWriter(folder / f"{number:02d}.tar") as writer:
            for clip in range(count // SHARDS):
                seconds = SHORTEST_S * (LONGEST_S / SHORTEST_S) ** draws.uniform()
                wave = draws.uniform(-0.1, 0.1, round(seconds * RATE_HZ)).astype(np.float32)
                file = io.BytesIO()
                soundfile.write(file, wave, RATE_HZ, format="FLAC")
                writer.add(f"{number:02d}-{clip:04d}.flac", file.getvalue())


def padding(folder: Path, *, bucket_batches: int | None, batch: int) -> float:
    """Load an epoch of training and return the part of it that is padding."""
    data = ShardDataModule(
        members=Members(audio="flac"),
        train=Split(str(folder)),
        audio=AudioSettings(sample_rate_hz=RATE_HZ, max_seconds=LONGEST_S),
        global_batch_size=batch,
        bucket_batches=bucket_batches,
        num_workers=0,
    )
    data.prepare_data()
    data.setup("fit")
    batches = data.train_batches(Rank())
    real = total = 0
    for step in range(batches.order.steps_per_epoch):
        found = batches[step]
        assert not isinstance(found, Refusal) and found.audio is not None
        real += int(found.audio.length_B.sum())
        total += found.audio.waveform_BT.numel()
    return 1 - real / total


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure padding with and without buckets.")
    parser.add_argument("--quick", action="store_true", help="1,024 clips instead of 8,192")
    parser.add_argument("--batch", type=int, default=32, help="samples of a batch (32)")
    arguments = parser.parse_args()
    count = 1024 if arguments.quick else 8192
    figures: dict[str, float] = {"clips": count, "batch": arguments.batch}
    with tempfile.TemporaryDirectory() as name:
        make_shards(Path(name), count)
        for pool in POOLS:
            if pool is not None and pool * arguments.batch > count:
                continue
            began = time.process_time()
            found = padding(Path(name), bucket_batches=pool, batch=arguments.batch)
            key = "random" if pool is None else f"buckets_{pool}"
            figures[f"padding_{key}"] = round(found, 4)
            figures[f"cpu_s_{key}"] = round(time.process_time() - began, 2)
            print(f"{key:12} {found:7.2%} padding")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
