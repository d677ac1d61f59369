"""``mmlight scenes OUT``: makes the quickstart's data set in several processes, without a download.

Equal settings give equal bytes. A sample has every label that a later task may need.
"""

import argparse
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmlight.data.scan import in_processes
from mmlight.data.scenes import sound as voice
from mmlight.data.scenes.image import IMAGE_SIZE, draw, draw_frames
from mmlight.data.scenes.questions import ANSWERS, TYPES, Asked, ask, describe, told
from mmlight.data.scenes.scene import (
    COLOURS,
    MAX_EVAL_SAMPLES,
    RELATIONS,
    SHAPES,
    SPLITS,
    Meaning,
    SceneRandom,
    SceneSplit,
    Thing,
    all_meanings,
    class_names,
    eval_meanings,
    train_meanings,
)
from mmlight.data.shards.seal import SealedWriter
from mmlight.errors import UserError, naming
from mmlight.terminal import Terminal, say


def _describe(thing: Thing, box: tuple[int, int, int, int]) -> dict[str, Any]:
    return {
        "label": thing.name,
        "colour": COLOURS[thing.colour],
        "shape": SHAPES[thing.shape],
        "box": box,
        "held_out": thing.held_out,
    }


def members(
    meaning: Meaning,
    draws: SceneRandom,
    *,
    split: SceneSplit,
    asked: Sequence[tuple[Asked, str]] = (),
) -> list[dict[str, bytes]]:
    """Return the members of a scene's samples by extension: jpg, txt, flac, cls and json.

    Args:
        meaning: the scene.
        draws: its random numbers.
        split: where it goes.
        asked: questions about it, each also as `told` gives it: lists in one sample of training,
            which draws one of them each time; elsewhere each has a sample of its own.
    """
    drawn = draw(meaning, draws)
    picture = _jpeg(drawn.pixels)
    sound = io.BytesIO()
    wave = voice.say(meaning.transcript, draws)
    soundfile.write(sound, wave, voice.SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    captions = meaning.captions()
    tokens, tags = meaning.tagged_tokens()
    things = (meaning.first, meaning.second)
    notes = {
        "caption": captions[0],
        "captions": captions,
        "paraphrases": captions[1:],
        "transcript": meaning.transcript,
        "tokens": tokens,
        "tags": tags,
        "relation": RELATIONS[meaning.relation],
        "objects": [_describe(t, b) for t, b in zip(things, drawn.boxes, strict=True)],
        "boxes": drawn.boxes,
        "labels": [t.name for t in things],
        "width": IMAGE_SIZE,
        "height": IMAGE_SIZE,
        "sample_rate_hz": voice.SAMPLE_RATE_HZ,
        "duration_s": round(len(wave) / voice.SAMPLE_RATE_HZ, 4),
        "split": split,
    }
    more: list[dict[str, Any]] = [asdict(one) | {"told": said} for one, said in asked] or [{}]
    if asked and split == "train":
        more = [
            {
                name if name == "told" else f"{name}s": [one[name] for one in more]
                for name in more[0]
            }
        ]
    return [
        {
            "jpg": picture,
            "txt": captions[0].encode(),
            "flac": sound.getvalue(),
            "cls": str(meaning.class_number).encode(),
            "json": json.dumps(notes | of_sample, separators=(",", ":")).encode(),
        }
        for of_sample in more
    ]


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    # Full colour resolution: at 64 px halved chroma would smear the colours over the outlines.
    Image.fromarray(pixels).save(file, "JPEG", quality=90, subsampling=0)
    return file.getvalue()


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight scenes``."""
    defaults = SceneSettings()
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
    parser.add_argument(
        "--questions",
        type=int,
        default=defaults.questions,
        help="also ask so many questions about each training scene, of which training draws one "
        "each time; val and test have a sample for each of "
        f"{len(TYPES)}, one of each type (default none)",
    )
    parser.add_argument(
        "--descriptions",
        type=int,
        default=defaults.descriptions,
        help="also ask so many times what there is to be seen in a training scene; a model that "
        "generates answers learns to see from them (default none)",
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=defaults.frames,
        help="also make a video of each scene, of so many frames 000.jpg, 001.jpg ...; each shows "
        "one of its objects (default none)",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="default %(default)s")
    parser.add_argument(
        "--all-combinations",
        action="store_true",
        help="train shows every combination of colour and shape in every pairing, those of val and "
        "test, too: for a model that judges what others draw",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes (default %(default)s); the result does not depend on it",
    )
    args = parser.parse_args(argv)
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: at least 1 process is needed")
    settings = SceneSettings(
        samples=args.samples,
        eval_samples=args.eval_samples,
        seed=args.seed,
        questions=args.questions,
        descriptions=args.descriptions,
        frames=args.frames,
        all_combinations=args.all_combinations,
    )
    made = make(args.out, settings=settings, workers=args.workers, progress=sys.stderr.isatty())
    sizes = ", ".join(f"{split} {settings.count(split)}" for split in SPLITS)
    say(f"{args.out}: {sizes} scenes" if made else f"{args.out}: already there ({sizes} scenes)")
    return 0


SAMPLES_PER_SHARD = 256
# Raise it with every change that alters a byte of the samples.
VERSION = 1
# Raise it with every change of the questions alone.
QUESTIONS_VERSION = 2
_SETTINGS_FILE = "scenes.json"


@dataclass(frozen=True)
class SceneSettings:
    """All that decides what the data set holds.

    Attributes:
        samples: scenes of the training split.
        eval_samples: scenes of ``val`` and of ``test``, each of another meaning.
        seed: of everything random.
        version: of the way scenes are made.
        questions: asked about each training scene.
        descriptions: asked for beside them, for each training scene.
        all_combinations: whether the training split keeps nothing out.
        frames: of each scene's video; 0 makes none.
    """

    samples: int = 6000
    eval_samples: int = 256
    seed: int = 0
    version: int = VERSION
    questions: int = 0
    descriptions: int = 0
    all_combinations: bool = False
    frames: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.samples < 1:
            raise UserError(f"--samples {self.samples}: at least 1 scene is needed")
        if not 1 <= self.eval_samples <= MAX_EVAL_SAMPLES:
            raise UserError(
                f"--eval-samples {self.eval_samples}: from 1 to {MAX_EVAL_SAMPLES} work (there are "
                f"{MAX_EVAL_SAMPLES} different scenes of held-out combinations)"
            )
        if not 0 <= self.questions <= 1000:
            raise UserError(f"--questions {self.questions}: from 0 to 1000 work")
        if not 0 <= self.descriptions <= (1000 if self.questions else 0):
            raise UserError(
                f"--descriptions {self.descriptions}: from 0 to 1000 work, beside --questions"
            )
        if not (self.frames == 0 or 2 <= self.frames <= 1000):
            raise UserError(f"--frames {self.frames}: from 2 to 1000 work, or 0 for no video")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed {self.seed}: from 0 to 2**63 - 1 work")

    def count(self, split: SceneSplit) -> int:
        """Return the number of scenes of `split`."""
        return self.samples if split == "train" else self.eval_samples

    def described(self) -> dict[str, Any]:
        """Return what the folder says of itself; what is usual is left out."""
        said = asdict(self)
        for name in ("questions", "descriptions", "all_combinations", "frames"):
            if not said[name]:
                del said[name]
        return said | ({"questions_version": QUESTIONS_VERSION} if self.questions else {})


@dataclass(frozen=True)
class Shard:
    """One file to write: samples `start` to `stop` of a split."""

    path: Path
    split: SceneSplit
    start: int
    stop: int


def shards(settings: SceneSettings, *, folder: Path) -> list[Shard]:
    """Return the shards of all splits."""
    return [
        Shard(folder / split / f"{number:05d}.tar", split, start, min(start + SAMPLES_PER_SHARD, n))
        for split in SPLITS
        for n in [settings.count(split)]
        for number, start in enumerate(range(0, n, SAMPLES_PER_SHARD))
    ]


def _meanings(split: SceneSplit, settings: SceneSettings) -> list[Meaning]:
    if split == "train" and settings.all_combinations:
        return all_meanings()
    if split == "train":
        return train_meanings(num_val=settings.eval_samples, seed=settings.seed)
    return eval_meanings(split, count=settings.eval_samples, seed=settings.seed)


def write_shard(shard: Shard, settings: SceneSettings) -> int:
    """Write one shard, a pure function of its arguments, and return its number of samples."""
    meanings = _meanings(shard.split, settings)
    number = SPLITS.index(shard.split)
    with naming(shard.path), SealedWriter(shard.path) as tar:
        for sample in range(shard.start, shard.stop):
            draws = SceneRandom(settings.seed, split=number, sample=sample)
            drawn = draws.below(len(meanings)) if shard.split == "train" else sample
            meaning = meanings[drawn]
            asked = _asked(meaning, settings, split=shard.split, sample=sample)
            samples = members(meaning, draws, split=shard.split, asked=asked)
            if settings.frames:
                # Random numbers of their own here, too.
                draws = SceneRandom(settings.seed, split=2 * len(SPLITS) + number, sample=sample)
                frames = draw_frames(meaning, draws, count=settings.frames)
                video = {f"{n:03d}.jpg": _jpeg(pixels) for n, pixels in enumerate(frames)}
                samples = [parts | video for parts in samples]
            for place, parts in enumerate(samples):
                key = f"{sample:06d}" if len(samples) == 1 else f"{sample:06d}_{place}"
                for extension, content in parts.items():
                    tar.add(f"{key}.{extension}", content)
    return shard.stop - shard.start


def _asked(
    meaning: Meaning, settings: SceneSettings, *, split: SceneSplit, sample: int
) -> list[tuple[Asked, str]]:
    if not settings.questions:
        return []
    # Random numbers of their own: the scenes are those of a set without questions.
    draws = SceneRandom(settings.seed, split=len(SPLITS) + SPLITS.index(split), sample=sample)
    count = settings.questions if split == "train" else len(TYPES)
    asked = [ask(meaning, draws, number=number) for number in range(count)]
    if split == "train":
        asked += [describe(meaning, draws) for _ in range(settings.descriptions)]
    return [(one, told(one, meaning, draws)) for one in asked]


def _written(settings: SceneSettings, *, folder: Path, workers: int) -> Iterator[int]:
    todo = shards(settings, folder=folder)
    workers = min(workers, len(todo))
    if workers == 1:
        for shard in todo:
            yield write_shard(shard, settings)
        return
    with in_processes(workers) as pool:
        yield from pool.map(write_shard, todo, [settings] * len(todo))


def _is_made(out: Path, settings: SceneSettings) -> bool:
    """Tell whether `out` holds this very data set; refuse a folder that holds anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not out.is_dir():
        raise UserError(f"{out} is a file: name a folder that does not exist yet")
    try:
        found = json.loads((out / _SETTINGS_FILE).read_text())
    except (OSError, ValueError):
        raise UserError(
            f"{out} already holds other things: name a folder that is empty or does not exist"
        ) from None
    wanted = settings.described()
    if found != wanted:
        there = found if isinstance(found, dict) else {}
        differ = [k for k in wanted | there if there.get(k) != wanted.get(k)]
        raise UserError(
            f"{out} already holds scenes made with other settings ({', '.join(differ)}): "
            "name another folder, or delete this one first"
        )
    missing = [s.path for s in shards(settings, folder=out) if not s.path.is_file()]
    if missing:
        raise UserError(f"{out} lacks {missing[0].relative_to(out)}: delete the folder, run again")
    return True


def make(out: Path, *, settings: SceneSettings, workers: int, progress: bool = True) -> bool:
    """Make the data set in the folder `out`, which appears only when it is whole.

    The bytes do not depend on the number of processes.

    Returns:
        False if `out` held the same data set already.

    Raises:
        UserError: `out` holds something else.
    """
    if _is_made(out, settings):
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        partial = Path(folder, out.name)
        for split in SPLITS:
            (partial / split).mkdir(parents=True)
        total = sum(settings.count(split) for split in SPLITS)
        columns = (
            TextColumn("making scenes"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Terminal(stderr=True), disable=not progress) as bar:
            task = bar.add_task("", total=total)
            for count in _written(settings, folder=partial, workers=workers):
                bar.advance(task, count)
        (partial / "classnames.txt").write_text("\n".join(class_names()) + "\n")
        if settings.questions:
            (partial / "answers.txt").write_text("\n".join(ANSWERS) + "\n")
        (partial / _SETTINGS_FILE).write_text(json.dumps(settings.described()) + "\n")
        partial.rename(out)
    return True
