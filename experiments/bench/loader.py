"""Decoding speed: mmlight's loader against the usual webdataset + Pillow pipeline.

Purpose
    How many images per CPU-second reach the training process at 224 px in batches of 64, with 0, 1
    and 2 worker processes. CPU-seconds are user + system time of the main process and all its
    descendants, so a pipeline gains nothing by moving work into another process.

Command
    python experiments/bench/loader.py            # three to five minutes
    python experiments/bench/loader.py --quick    # under a minute: wider spread, no 2 workers

Hardware
    Linux (reads /proc), any CPU, no GPU. Developed on two cores of an AMD EPYC that other programs
    used at the same time: compare ratios, not absolute figures.

What is measured
    Data: photograph-like JPEGs (gradients, blobs, texture, noise) of 256-512 px at quality 90,
    about 35 KB each, with a caption, in webdataset shards, made anew in a temporary folder. They
    stay in the page cache.

    usual    as open_clip does it: webdataset's tar stream and shuffle buffer, Pillow, torchvision's
             RandomResizedCrop(scale 0.9-1, bicubic, antialias), ToTensor, Normalize, default
             collation to float32, WebLoader.
    mmlight  ShardDataModule: the same crops and captions. Its batches are uint8, because encoders
             normalise on their device.
    mmlight unverified
             the same with data.verify: false, so without comparing checksums of what is read.
    mmlight + normalise
             as mmlight, and each batch is normalised to float32 on the CPU in the main process, as
             an encoder does where there is no GPU.

    Both tokenise captions with the same byte tokenizer. Each measurement builds its loader anew,
    takes a batch to warm up, waits until workers have filled their queues and stopped, counts CPU
    time over a whole epoch, and ends with queues as full as at the start. So imports and start-up
    are left out, and so is the index, which is written once, with the shards; all else is in. One
    thread per process. All combinations run once per repeat, in a new order each time; a ratio
    compares the two of one repeat. Given are medians and, in brackets, the extremes.

    That mmlight is not faster by being wrong: the pixels that evaluation sees are compared with
    Pillow's (Resize, CenterCrop) on some of the images.
"""

import argparse
import io
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image
from rich.console import Console
from rich.table import Table
from torchvision import transforms

from mmlight.data.decode.image import ImageSettings, load_image
from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.packing.write import pack
from mmlight.data.splits.split import Split
from mmlight.data.text import TextSettings
from mmlight.text.tokenizer import ByteTokenizer

SIZE = 224
BATCH_SIZE = 64
MAX_TOKENS = 77
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
WARM_UP_BATCHES = 1


@dataclass(frozen=True)
class Plan:
    """How much is measured: one epoch, a whole number of batches for each worker.

    Attributes:
        num_images: images of an epoch.
        num_shards: shards that hold them.
        repeats: measurements of each combination.
        num_compared: images whose pixels are compared with Pillow's.
        combinations: pipelines with their numbers of workers.
    """

    num_images: int
    num_shards: int
    repeats: int
    num_compared: int
    combinations: dict[str, tuple[int, ...]]


FULL = Plan(
    num_images=768,
    num_shards=6,
    repeats=5,
    num_compared=64,
    combinations={
        "usual": (0, 1, 2),
        "mmlight": (0, 1, 2),
        "mmlight_unverified": (0, 1, 2),
        "mmlight_normalised": (0, 1, 2),
    },
)
QUICK = Plan(
    num_images=256,
    num_shards=4,
    repeats=3,
    num_compared=16,
    combinations={
        "usual": (0, 1),
        "mmlight": (0, 1),
        "mmlight_unverified": (0, 1),
        "mmlight_normalised": (0,),
    },
)


def photograph(rng: np.random.Generator) -> bytes:
    """Return a JPEG with about as many bytes per pixel as photographs have at quality 90."""
    width, height = (int(side) for side in rng.integers(256, 513, size=2))
    # What is smooth is drawn at a quarter of the size.
    rows = np.linspace(-1, 1, height // 4, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width // 4, dtype=np.float32)[None]
    slopes = rng.uniform(-40, 40, (2, 3)).astype(np.float32)
    scene = rng.uniform(80, 180, 3).astype(np.float32)
    scene = scene + rows[..., None] * slopes[0] + columns[..., None] * slopes[1]
    for _ in range(12):
        centre_x, centre_y, radius = *rng.uniform(-1, 1, 2), rng.uniform(0.08, 0.5)
        distance = ((columns - centre_x) ** 2 + (rows - centre_y) ** 2) / radius**2
        inside = 1 / (1 + np.exp(np.clip((distance - 1) * rng.uniform(3, 30), -30, 30)))
        scene += inside[..., None].astype(np.float32) * rng.uniform(-70, 70, 3).astype(np.float32)
    smooth = Image.fromarray(scene.clip(0, 255).astype(np.uint8))
    pixels_HWC = np.asarray(smooth.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    texture_HW = rng.standard_normal((height, width), dtype=np.float32) * rng.uniform(0.5, 3)
    for step, strength in ((8, 10.0), (3, 8.5), (2, 4.5)):
        coarse = rng.standard_normal((height // step + 1, width // step + 1), dtype=np.float32)
        fine = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        texture_HW += np.asarray(fine) * (strength * rng.uniform(0.4, 1.4))
    pixels_HWC = (pixels_HWC + texture_HW[..., None]).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels_HWC).save(file, "JPEG", quality=90)
    return file.getvalue()


def make_shards(folder: Path, plan: Plan) -> tuple[str, list[bytes]]:
    """Write the shards; return their pattern and the images."""
    rng = np.random.default_rng(0)
    images = [photograph(rng) for _ in range(plan.num_images)]
    words = ("a", "small", "red", "round", "thing", "over", "two", "grey", "hills", "at", "night")
    samples = (
        {"__key__": f"{i:06d}", "jpg": image, "txt": " ".join(rng.choice(words, 10))}
        for i, image in enumerate(images)
    )
    pack(samples, folder, samples_per_shard=plan.num_images // plan.num_shards)
    return str(folder / f"{{00000..{plan.num_shards - 1:05d}}}.tar"), images


def usual_batches(shards: str, workers: int) -> Generator[Any, None, None]:
    """Yield (float32 pixels, token ids) for ever, as open_clip's training does."""
    preprocess = transforms.Compose(
        [
            transforms.RandomResizedCrop(
                SIZE,
                scale=(0.9, 1.0),
                interpolation=transforms.InterpolationMode.BICUBIC,
                antialias=True,
            ),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    tokenizer = ByteTokenizer()

    def tokenize(text: str) -> torch.Tensor:
        ids_1L = tokenizer.encode_batch([text], max_tokens=MAX_TOKENS).ids_NL
        token_ids_L = torch.zeros(MAX_TOKENS, dtype=torch.int64)
        token_ids_L[: ids_1L.shape[1]] = torch.from_numpy(ids_1L[0])
        return token_ids_L

    dataset = webdataset.DataPipeline(
        webdataset.SimpleShardList(shards),
        webdataset.split_by_worker,
        webdataset.tarfile_to_samples(),
        webdataset.shuffle(1000, initial=100),
        webdataset.decode("pilrgb"),
        webdataset.rename(image="jpg;png;jpeg;webp", text="txt"),
        webdataset.map_dict(image=preprocess, text=tokenize),
        webdataset.to_tuple("image", "text"),
        webdataset.batched(BATCH_SIZE, partial=False),
    ).repeat()
    loader = webdataset.WebLoader(
        dataset,
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    for pixels_BCHW, token_ids_BL in loader:
        assert pixels_BCHW.shape == (BATCH_SIZE, 3, SIZE, SIZE), pixels_BCHW.shape
        assert token_ids_BL.shape == (BATCH_SIZE, MAX_TOKENS), token_ids_BL.shape
        yield pixels_BCHW, token_ids_BL


def mmlight_batches(
    shards: str, workers: int, *, verify: bool = True
) -> Generator[Any, None, None]:
    """Yield our batches for ever."""
    data = ShardDataModule(
        members=Members(image="jpg", text="txt"),
        train=Split(shards),
        image=ImageSettings(size=SIZE),
        text=TextSettings(tokenizer=ByteTokenizer(), max_tokens=MAX_TOKENS),
        global_batch_size=BATCH_SIZE,
        num_workers=workers,
        verify=verify,
    )
    data.setup("fit")
    loader = data.train_dataloader()
    while True:
        for batch in loader:
            assert batch.image is not None and batch.text is not None and not batch.bad
            assert batch.image.pixels_BCHW.shape == (BATCH_SIZE, 3, SIZE, SIZE)
            yield batch
        # A trainer moves the position on; here a checkpoint of the next epoch's start does.
        state = data.state_dict()
        data.load_state_dict({**state, "epoch": state["epoch"] + 1})


def normalised_batches(shards: str, workers: int) -> Generator[Any, None, None]:
    """Yield our pixels normalised on the CPU, with an encoder's own arithmetic."""
    scale = (1 / (255 * torch.tensor(STD))).view(-1, 1, 1)
    shift = (-torch.tensor(MEAN) / torch.tensor(STD)).view(-1, 1, 1)
    for batch in mmlight_batches(shards, workers):
        yield torch.addcmul(shift, batch.image.pixels_BCHW.float(), scale), batch.text


PIPELINES: dict[str, Callable[[str, int], Generator[Any, None, None]]] = {
    "usual": usual_batches,
    "mmlight": mmlight_batches,
    "mmlight_unverified": partial(mmlight_batches, verify=False),
    "mmlight_normalised": normalised_batches,
}


def descendants() -> dict[int, float]:
    """Return the CPU-seconds so far of each living process below this one."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    tick = 1 / os.sysconf("SC_CLK_TCK")
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in brackets may hold anything; the third field comes after it.
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        process = int(stat.parent.name)
        parents[process] = int(fields[1])
        # utime, stime, and those of its children that have ended
        seconds[process] = tick * sum(map(int, fields[11:15]))
    family = {os.getpid()}
    while found := {p for p, parent in parents.items() if parent in family and p not in family}:
        family |= found
    return {process: seconds[process] for process in family - {os.getpid()}}


def settle() -> dict[int, float]:
    """Wait until the workers have filled their queues and use no CPU; return their times."""
    before = descendants()
    quiet = 0
    while before and quiet < 3:
        time.sleep(0.15)
        now = descendants()
        quiet = quiet + 1 if now == before else 0
        before = now
    return before


def measure(name: str, shards: str, *, workers: int, num_batches: int) -> float:
    """Return images per CPU-second over all processes."""
    # Only processes of this measurement count; the last one's workers must be gone.
    assert not descendants(), "workers of an earlier measurement are alive"
    batches = PIPELINES[name](shards, workers)
    for _ in range(WARM_UP_BATCHES):
        next(batches)
    workers_before = settle()
    assert len(workers_before) == workers, f"{len(workers_before)} processes, not {workers}"
    own_before = time.process_time()
    for _ in range(num_batches):
        next(batches)
    own = time.process_time() - own_before
    workers_after = settle()
    assert workers_after.keys() == workers_before.keys(), "a worker was replaced"
    used = own + sum(workers_after.values()) - sum(workers_before.values())
    batches.close()
    return num_batches * BATCH_SIZE / used


def compare_pixels(images: list[bytes]) -> tuple[float, float, int]:
    """Return median and least PSNR in dB and the largest difference from Pillow's pixels."""
    pillow = transforms.Compose(
        [
            transforms.Resize(SIZE, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(SIZE),
        ]
    )
    psnr: list[float] = []
    largest = 0
    for image in images:
        ours = load_image(image, ImageSettings(size=SIZE), draws=None).permute(1, 2, 0).numpy()
        theirs = np.asarray(pillow(Image.open(io.BytesIO(image)).convert("RGB")))
        difference = ours.astype(np.float64) - theirs
        # Equal pixels would be infinite, which JSON cannot hold.
        psnr.append(10 * np.log10(255**2 / max(float((difference**2).mean()), 1e-10)))
        largest = max(largest, int(np.abs(difference).max()))
    return statistics.median(psnr), min(psnr), largest


def summarise(values: list[float]) -> str:
    """Return the median and, in brackets, the extremes."""
    digits = 0 if statistics.median(values) >= 20 else 2
    low, middle, high = (f"{f(values):.{digits}f}" for f in (min, statistics.median, max))
    return f"{middle} [{low}-{high}]"


def report(speeds: dict[tuple[str, int], list[float]], console: Console) -> dict[str, Any]:
    """Print the table; return its figures."""
    numbers = sorted({workers for _, workers in speeds})
    lines: dict[str, dict[int, list[float]]] = {}
    for (name, workers), values in speeds.items():
        lines.setdefault(f"{name}_images_per_cpu_s", {})[workers] = values
        if name == "mmlight_unverified":
            pairs = zip(speeds["mmlight", workers], values, strict=True)
            lines.setdefault("ratio_to_unverified", {})[workers] = [v / not_v for v, not_v in pairs]
        elif name != "usual":
            pairs = zip(values, speeds["usual", workers], strict=True)
            key = name.replace("mmlight", "ratio")
            lines.setdefault(key, {})[workers] = [ours / usual for ours, usual in pairs]
    table = Table("", *(f"{n} worker{'' if n == 1 else 's'}" for n in numbers))
    figures: dict[str, Any] = {}
    for key, columns in lines.items():
        cells = [summarise(columns[n]) if n in columns else "" for n in numbers]
        table.add_row(key.replace("_per_cpu_s", " / CPU-s").replace("_", " "), *cells)
        for workers, values in columns.items():
            figures[f"{key}_{workers}_workers"] = round(statistics.median(values), 2)
            figures[f"{key}_{workers}_workers_all"] = [round(value, 2) for value in values]
    console.print(table)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Compare images per CPU-second of mmlight's loader and webdataset + Pillow."
    )
    parser.add_argument("--quick", action="store_true", help="fewer images; under a minute")
    parser.add_argument("--repeats", type=int, help="measurements of each combination (5; quick 3)")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    repeats = plan.repeats if arguments.repeats is None else arguments.repeats
    if repeats < 1:
        parser.error("--repeats must be 1 or more")
    torch.set_num_threads(1)
    console = Console()
    started = time.monotonic()
    speeds: dict[tuple[str, int], list[float]] = {
        (name, workers): [] for name, counts in plan.combinations.items() for workers in counts
    }
    with tempfile.TemporaryDirectory() as folder:
        shards, images = make_shards(Path(folder), plan)
        mean_kb = statistics.mean(map(len, images)) / 1e3
        console.print(
            f"{len(images)} JPEGs of {mean_kb:.1f} KB on average in {plan.num_shards} shards; "
            f"{repeats} repeats"
        )
        for repeat in range(repeats):
            order = list(speeds)
            random.Random(repeat).shuffle(order)
            for name, workers in order:
                speed = measure(
                    name, shards, workers=workers, num_batches=len(images) // BATCH_SIZE
                )
                speeds[name, workers].append(speed)
        psnr_median, psnr_least, largest = compare_pixels(images[: plan.num_compared])

    figures = report(speeds, console)
    console.print(
        f"evaluation pixels against Pillow's, {plan.num_compared} images: PSNR median "
        f"{psnr_median:.1f} dB, least {psnr_least:.1f} dB, largest difference {largest} of 255"
    )
    figures |= {
        "psnr_median_db": round(psnr_median, 1),
        "psnr_min_db": round(psnr_least, 1),
        "max_pixel_difference": largest,
        "num_images": len(images),
        "mean_kb": round(mean_kb, 1),
        "repeats": repeats,
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
