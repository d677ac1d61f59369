"""Shards from a server: images per second with a cold and a warm cache, against a local disk.

Purpose
    What reading from an object store costs a training that decodes images; and what it costs to
    start, or to go on in the middle, where a data set has 1e9 samples in 1e5 remote shards.

Command
    python experiments/bench/remote.py                 # minutes
    python experiments/bench/remote.py --quick         # seconds
    python experiments/bench/remote.py --s3 s3://BUCKET/PREFIX   # from a store that speaks S3

Hardware
    Any CPU. Server, downloads and decoding share it, so a cold cache is slower than it is where the
    server is another machine.

What is measured
    An epoch of the training loader over shards of JPEG images (224 px crops), from a disk, from the
    server with an empty cache, and again with what is in the cache, taking turns; medians of images
    per second of wall clock, and per CPU-second of reader, workers and downloads together, which a
    busy machine changes less. Before each round all bytes are read by plain GET: the rate that the
    server gives. Starts: a corpus and an order over simulated indexes, up to the place of every
    sample of the first batch, and of one at a random step, by the clock and in CPU-seconds; memory
    with all that is imported. Index: CPU-seconds and memory to index shards of tiny samples.
"""

import argparse
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmlight.costs.meters import peak_resident_bytes
from mmlight.data.decode.image import ImageSettings
from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.order.cursor import Order
from mmlight.data.shards import index
from mmlight.data.shards.cache import ShardCache
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.data.shards.index_file import ShardIndex
from mmlight.data.shards.paths import expand
from mmlight.data.shards.remote import Remote, store_of, write
from mmlight.data.shards.seal import SealedWriter
from mmlight.data.splits.split import Split

# A web server with ranges, whose bytes the kernel copies.
_SERVER = """
import os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        try:
            file = open(os.path.join(sys.argv[1], self.path.lstrip("/")), "rb")
        except OSError:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            asked = self.headers.get("Range", "bytes=0-").removeprefix("bytes=")
            first, _, last = asked.partition("-")
            start, stop = int(first), min(int(last or size) + 1, size)
            self.send_response(206)
            self.send_header("ETag", f'"{size}"')
            self.send_header("Content-Length", str(stop - start))
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.end_headers()
            self.wfile.flush()
            while start < stop:
                start += os.sendfile(self.connection.fileno(), file.fileno(), start, stop - start)
    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def make_shards(folder: Path, *, shards: int, images: int) -> None:
    """Write shards of smooth pictures of about 20 KB, and their indexes."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    pictures = []
    for _ in range(16):
        coarse = draw.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((384, 288), Image.Resampling.BICUBIC).save(file, "JPEG")
        pictures.append(file.getvalue())
    for number in range(shards):
        with SealedWriter(folder / f"{number:03d}.tar") as writer:
            for image in range(images):
                data = pictures[int(draw.integers(len(pictures)))]
                writer.add(f"{number:03d}{image:05d}.jpg", data)
    load_or_build(expand(str(folder)), progress=False)


def module(shards: str, cache: ShardCache, *, workers: int) -> ShardDataModule:
    data = ShardDataModule(
        members=Members(image="jpg"),
        train=Split(shards),
        image=ImageSettings(size=224),
        global_batch_size=64,
        window=512,
        num_workers=workers,
        cache=cache,
    )
    data.prepare_data()
    data.setup("fit")
    return data


def cpu_s() -> float:
    """Return the CPU-seconds of this process and of those of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def images_per_s(shards: str, cache: ShardCache, *, workers: int) -> tuple[float, float]:
    """Read an epoch as training does; return images per second and per CPU-second."""
    data = module(shards, cache, workers=workers)
    loader = data.train_dataloader()
    began, cpu_began = time.perf_counter(), cpu_s()
    count = sum(len(batch.keys) for batch in loader)
    seconds = time.perf_counter() - began
    loader.close()
    return count / seconds, count / (cpu_s() - cpu_began)


def server_mb_per_s(shards: str, cache: ShardCache) -> float:
    """Read all bytes by plain GET, one shard after another."""
    began, total = time.perf_counter(), 0
    for shard in expand(shards, cache=cache):
        assert isinstance(shard, Remote)
        for chunk in store_of(shard.url).read(shard.url, 0, shard.num_bytes).chunks:
            total += len(chunk)
    return total / 1e6 / (time.perf_counter() - began)


def simulated(num_shards: int, num_samples: int) -> list[ShardIndex]:
    cache = ShardCache("/nowhere")
    each = num_samples // num_shards
    return [
        ShardIndex(
            path=Remote(f"s3://bucket/set/{number:06d}.tar", 1 << 30, "etag", cache),
            index_path=Path(f"/nowhere/{number:06d}.index"),
            num_samples=each,
            num_bytes=1 << 30,
            mtime_ns=0,
            sha256=f"{number:064x}",
            extensions={"jpg": each, "txt": each},
            largest_member=1 << 20,
            num_ignored=0,
            num_members=2 * each,
            num_key_bytes=9 * each,
            rows_crc32=0,
        )
        for number in range(num_shards)
    ]


def starts(num_shards: int, num_samples: int) -> dict[str, float]:
    """Return the seconds of a start and of a resume, and the memory that they take."""
    indexes = simulated(num_shards, num_samples)
    figures: dict[str, float] = {}
    random_step = int(np.random.default_rng(0).integers(num_samples // 1024))
    for name, epoch, step in (("first_batch", 0, 0), ("resume", 3, random_step)):
        began, cpu_began = time.perf_counter(), time.process_time()
        corpus = Corpus(indexes)
        order = Order(corpus.shard_sizes, global_batch=1024, seed=0)
        places = [corpus.locate(int(number)) for number in order.batch(epoch, step)]
        assert len(places) == 1024
        figures[f"{name}_s"] = round(time.perf_counter() - began, 3)
        figures[f"{name}_cpu_s"] = round(time.process_time() - cpu_began, 3)
    return figures | {"peak_mib": peak_mib()}


def peak_mib() -> int:
    return round(peak_resident_bytes() / 2**20)


def tiny_index(folder: Path, most: int) -> dict[str, float]:
    """Index shards of tiny samples, the largest last; return CPU-seconds and memory for each."""
    figures: dict[str, float] = {}
    for number in (most // 4, most):
        path = folder / f"{number}.tar"
        with SealedWriter(path) as writer:
            for sample in range(number):
                writer.add(f"{sample:07d}.txt", b"a caption")
        began = time.process_time()
        index.build(path)
        figures[f"index_{number}_cpu_s"] = round(time.process_time() - began, 2)
        figures[f"index_{number}_peak_mib"] = peak_mib()
        path.unlink()
        print(f"{number:,} samples indexed in {figures[f'index_{number}_cpu_s']} CPU-s, "
              f"{peak_mib()} MiB at most", flush=True)  # fmt: skip
    return figures


def upload(folder: Path, prefix: str, cache: ShardCache) -> str:
    for path in [*folder.glob("*.tar"), *folder.glob("*.index")]:
        write(f"{prefix}/{path.name}", path.read_bytes(), cache=cache)
    return prefix + "/"


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder from a process of its own; yield the URL."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(folder)], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    there = folder / "there"
    shards, images = (2, 128) if arguments.quick else (16, arguments.images)
    make_shards(there, shards=shards, images=images)
    cache = ShardCache(str(folder / "cache"))
    if arguments.s3:
        far = upload(there, arguments.s3.rstrip("/"), cache)
        return _compare(str(there), far, cache, arguments)
    with serving(there) as url:
        far = f"{url}/{{000..{shards - 1:03d}}}.tar"
        return _compare(str(there), far, cache, arguments)


def _compare(
    near: str, far: str, cache: ShardCache, arguments: argparse.Namespace
) -> dict[str, Any]:
    from_where = {"local": near, "cold": far, "warm": far}
    rates: dict[str, list[float]] = {"server_mb_per_s": []}
    for name in from_where:
        rates |= {f"{name}_images_per_s": [], f"{name}_images_per_cpu_s": []}
    for number in range(arguments.repeats):
        shutil.rmtree(cache.path(), ignore_errors=True)
        rates["server_mb_per_s"].append(server_mb_per_s(far, cache))
        for name, shards in from_where.items():
            found = images_per_s(shards, cache, workers=arguments.workers)
            for unit, rate in zip(("s", "cpu_s"), found, strict=True):
                rates[f"{name}_images_per_{unit}"].append(rate)
        last = ", ".join(f"{name} {values[-1]:,.0f}" for name, values in rates.items())
        print(f"round {number + 1} of {arguments.repeats}: {last}", flush=True)
    figures: dict[str, Any] = {
        name: round(statistics.median(values), 1) for name, values in rates.items()
    }
    for name in ("cold", "warm"):
        for unit in ("s", "cpu_s"):
            far_rates, near_rates = (rates[f"{n}_images_per_{unit}"] for n in (name, "local"))
            ratios = [a / b for a, b in zip(far_rates, near_rates, strict=True)]
            figures[f"{name}_ratio_per_{unit}"] = round(statistics.median(ratios), 3)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure shards from a server.")
    parser.add_argument("--quick", action="store_true", help="few images and shards")
    parser.add_argument("--repeats", type=int, default=5, help="of each (5)")
    parser.add_argument("--images", type=int, default=512, help="in each of 16 shards (512)")
    parser.add_argument("--workers", type=int, default=1, help="processes that decode (1)")
    parser.add_argument("--s3", metavar="URL", help="a prefix to write shards to, and read them")
    parser.add_argument("--only", choices=["rates", "starts"], help="leave the rest out")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats = 1
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        if arguments.only != "rates":
            shards, samples = (10_000, 10**8) if arguments.quick else (100_000, 10**9)
            figures |= starts(shards, samples)
            print(f"{samples:.0e} samples in {shards:,} shards: first batch placed in "
                  f"{figures['first_batch_cpu_s']} CPU-s, resumed in {figures['resume_cpu_s']}, "
                  f"{figures['peak_mib']} MiB at most", flush=True)  # fmt: skip
            figures |= tiny_index(Path(name), 2000 if arguments.quick else 200_000)
        if arguments.only != "starts":
            figures |= compare(arguments, Path(name))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
