"""Evaluation: mmlight's figures beside those of CLIP_benchmark's own code, on one model.

Purpose
    Zero-shot and linear probe on CIFAR-10, retrieval with five captions a picture on the scenes:
    the same weights and the same shards, scored by both.

Command
    python experiments/bench/evaluation.py --clip-benchmark FOLDER            # half an hour
    python experiments/bench/evaluation.py --clip-benchmark FOLDER --quick    # three minutes

    FOLDER: pip install --no-deps --target FOLDER clip_benchmark
    --cifar10-run RUN, --scenes-run RUN: trained by experiments/pretrain/cifar10_captions.yaml and
    scenes.yaml. Without them models are trained for a few steps first. Needs data/scenes and
    ../shared/data/cifar10.

Hardware
    Any CPU, no GPU.

What is compared
    Both data sets are written anew in CLIP_benchmark's layout. Its side reads them with its own
    `build_wds_dataset` and calls its own `evaluate` of zero-shot classification, retrieval and
    linear probe; the model brings its preparation of images and its tokenizer, as models do there.
    Its linear probe refuses to run without CUDA: here `.cuda()` does nothing and the device's name
    says "cuda" when it is asked. mmlight's side is `mmlight evaluate` on the folders.

    A linear probe by AdamW depends on the order of the training samples, which CLIP_benchmark
    shuffles before it begins. "same order" is mmlight's probe on features in that order; "own
    order" and "L-BFGS" (CLIP's solver) are what `mmlight evaluate` says, and differ from it by
    what another seed changes.

The last line is one JSON object: every figure in percent, and the differences in points.
"""

import argparse
import contextlib
import csv
import io
import json
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mmlight.batch import Images, Text
from mmlight.commands import evaluate, train
from mmlight.interop.embedder import Embedder
from mmlight.metrics.linear_probe import WEIGHT_DECAYS, fit_adamw, search_peak

CIFAR10 = Path("../shared/data/cifar10")
SCENES = Path("data/scenes")
PROMPTS = ["a photo of a {c}", "a blurry photo of a {c}", "a picture of one {c}"]
PAIRS = {
    "acc1": "accuracy_at_1",
    "acc5": "accuracy_at_5",
    "mean_per_class_recall": "mean_per_class_recall",
}


class Cpu(str):
    """A device that is the CPU, and says that it is CUDA when it is asked."""

    def __eq__(self, other: object) -> bool:
        return other == "cuda" or str.__eq__(self, other)

    __hash__ = str.__hash__


class Theirs(nn.Module):
    """A model of ours, with the two methods that CLIP_benchmark calls."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder
        self.task = embedder.task

    def encode_image(self, pixels_BCHW: Tensor) -> Tensor:
        return self.task.encode("image", Images(pixels_BCHW, torch.ones(len(pixels_BCHW)).bool()))

    def encode_text(self, tokens_N2L: Tensor) -> Tensor:
        ids_NL, mask_NL = tokens_N2L.unbind(1)
        rows = torch.arange(len(ids_NL))
        return self.task.encode(
            "text", Text(ids_NL, mask_NL.bool(), torch.ones(len(rows)).bool(), rows, rows)
        )

    def transform(self, image: Any) -> Tensor:
        """Prepare an image as the model was trained, from what another program decoded."""
        from mmlight.data.decode.image import load_image
        from mmlight.interop.inputs import image_bytes

        data = image_bytes(image, name="")
        return load_image(data, self.embedder.settings["image"], draws=None)

    def tokenizer(self, texts: list[str]) -> Tensor:
        settings = self.embedder.settings["text"]
        prepared = [settings.prepared(text) for text in texts]
        found = settings.tokenizer.encode_batch(
            prepared, max_tokens=settings.max_tokens, offsets=False
        )
        return torch.from_numpy(np.stack([found.ids_NL, found.mask_NL], 1).astype(np.int64))


def samples_of(shards: list[Path]) -> Iterator[dict[str, bytes]]:
    """Yield the members of each sample."""
    for shard in shards:
        found: dict[str, dict[str, bytes]] = {}
        with tarfile.open(shard) as file:
            for member in file:
                key, _, extension = member.name.partition(".")
                content = file.extractfile(member)
                assert content is not None
                found.setdefault(key, {})[extension] = content.read()
        yield from found.values()


def write_split(
    folder: Path, shards: list[Path], members: Callable[[dict[str, bytes]], dict], limit: int
) -> None:
    """Write samples as CLIP_benchmark does, in two shards."""
    folder.mkdir(parents=True)
    samples = [one for one, _ in zip(samples_of(shards), range(limit), strict=False)]
    half = -(-len(samples) // 2)
    for number in range(2):
        with tarfile.open(folder / f"{number}.tar", "w") as file:
            for place in range(number * half, min(len(samples), (number + 1) * half)):
                for extension, data in members(samples[place]).items():
                    info = tarfile.TarInfo(f"s{place:07d}.{extension}")
                    info.size = len(data)
                    file.addfile(info, io.BytesIO(data))
    (folder / "nshards.txt").write_text("2")


def write_cifar10(folder: Path, limit: int) -> Path:
    train_shards = sorted((CIFAR10 / "train").glob("*.tar"))
    splits = {
        "train": train_shards[:-1],
        "val": train_shards[-1:],
        "test": sorted((CIFAR10 / "test").glob("*.tar")),
    }
    for split, shards in splits.items():
        write_split(folder / split, shards, lambda s: {k: s[k] for k in ("jpg", "cls")}, limit)
    (folder / "classnames.txt").write_text((CIFAR10 / "classnames.txt").read_text())
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(PROMPTS) + "\n")
    return folder


def write_scenes(folder: Path, limit: int) -> Path:
    def members(sample: dict[str, bytes]) -> dict[str, bytes]:
        captions = json.loads(sample["json"])["captions"]
        return {"jpg": sample["jpg"], "txt": "\n".join(captions).encode()}

    write_split(folder / "test", sorted((SCENES / "test").glob("*.tar")), members, limit)
    (folder / "dataset_type.txt").write_text("retrieval")
    return folder


def loader_of(folder: Path, split: str, transform: Callable[[Any], Tensor]) -> Any:
    """Return CLIP_benchmark's own loader of a folder, as its command line makes it."""
    from clip_benchmark.datasets.builder import build_wds_dataset

    dataset = build_wds_dataset("own", transform, split=split, data_dir=str(folder))
    batches = dataset.batched(64)
    batches.classes, batches.templates = dataset.classes, dataset.templates
    return torch.utils.data.DataLoader(batches, batch_size=None, num_workers=0)


def their_scores(
    name: str, embedder: Embedder, folder: Path, place: Path
) -> tuple[dict[str, float], Tensor | None]:
    """Return CLIP_benchmark's figures, and the order in which it took the training samples."""
    from clip_benchmark.metrics import linear_probe, zeroshot_classification, zeroshot_retrieval

    model = Theirs(embedder)
    loaders = {
        split.name: loader_of(folder, split.name, model.transform)
        for split in sorted(folder.iterdir())
        if split.is_dir()
    }
    quiet = contextlib.ExitStack()
    with quiet:
        # It takes float() of an array with one number, which NumPy refuses since 2.5.
        quiet.enter_context(
            patch.object(
                zeroshot_classification, "float", lambda one: np.asarray(one).item(), create=True
            )
        )
        quiet.enter_context(contextlib.redirect_stdout(io.StringIO()))
        quiet.enter_context(contextlib.redirect_stderr(io.StringIO()))
        if name == "scenes":
            found = zeroshot_retrieval.evaluate(
                model, loaders["test"], model.tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10]
            )
            return found, None
        data = loaders["test"].dataset
        found = zeroshot_classification.evaluate(
            model, loaders["test"], model.tokenizer, data.classes, data.templates, "cpu", amp=False
        )
        drawn: list[Tensor] = []
        shuffle = torch.randperm

        def record(*arguments: Any, **settings: Any) -> Tensor:
            drawn.append(shuffle(*arguments, **settings))
            return drawn[-1]

        quiet.enter_context(patch.object(nn.Module, "cuda", lambda self, *_: self))
        quiet.enter_context(patch.object(Tensor, "cuda", lambda self, *_: self))
        quiet.enter_context(patch.object(linear_probe.torch, "randperm", record))
        torch.manual_seed(0)
        found |= linear_probe.evaluate(
            model,
            loaders["train"],
            loaders["test"],
            *(-1, 64, 0, 0.1, 10, "own", 0, str(place / "probe")),
            device=Cpu("cpu"),
            val_dataloader=loaders["val"],
            amp=False,
        )
    return found, drawn[0]


def our_scores(name: str, run: str, folder: Path, place: Path) -> dict[tuple[str, str], float]:
    """Return the figures of `mmlight evaluate`, by task and score."""
    probes = {}
    sets: dict[str, Any] = {name: {"shards": str(folder)}}
    if name == "cifar10":
        for solver in ("adamw", "lbfgs"):
            probes[solver] = {
                "shards": str(folder),
                "val": str(folder / "val"),
                "tasks": {"linear_probe": {"solver": solver}},
            }
        sets |= probes
    suite = place / f"{name}.yaml"
    suite.write_text(yaml.safe_dump({"sets": sets}))
    out = place / name
    arguments = ["--model", run, "--suite", str(suite), "--out", str(out), "--workers", "0"]
    arguments += ["--cache", str(place / "features")]
    with contextlib.redirect_stdout(io.StringIO()):
        assert evaluate.main(arguments) == 0
    with (out / "scores.csv").open() as file:
        return {
            (row["set"] if row["set"] in probes else row["task"], row["score"]): float(row["value"])
            for row in csv.DictReader(file)
        }


def probe_in_order(folder: Path, embedder: Embedder, order: Tensor) -> float:
    """Return the accuracy of mmlight's probe on features in CLIP_benchmark's order."""
    rows = {}
    for split in ("train", "val", "test"):
        samples = list(samples_of(sorted((folder / split).glob("*.tar"))))
        labels = torch.tensor([int(one["cls"]) for one in samples])
        rows[split] = embedder.images([one["jpg"] for one in samples]), labels
    train, labels = (part[order] for part in rows["train"])
    check, answers = rows["val"]

    def fit(feature_ND: Tensor, label_N: Tensor, weight_decay: float) -> Any:
        return fit_adamw(feature_ND, label_N, num_classes=10, weight_decay=weight_decay)

    def score(place: int) -> float:
        found = fit(train, labels, WEIGHT_DECAYS[place])(check)
        return float((found.argmax(1) == answers).double().mean())

    chosen = WEIGHT_DECAYS[search_peak(score, size=len(WEIGHT_DECAYS))]
    classifier = fit(torch.cat([train, check]), torch.cat([labels, answers]), chosen)
    feature_QD, label_Q = rows["test"]
    return float((classifier(feature_QD).argmax(1) == label_Q).double().mean())


def trained(name: str, root: Path, steps: int) -> str:
    """Train for some steps; return the run's folder."""
    for variable in ("MMLIGHT_RUN_ID", "MMLIGHT_RUN_OWNER"):  # of the last run in this process
        os.environ.pop(variable, None)
    arguments = ["fit", "-c", f"experiments/pretrain/{name}.yaml", "--run.root", str(root)]
    arguments += ["--trainer.max_steps", str(steps), "--run.test", "false", "--pictures", "null"]
    arguments += ["--trainer.limit_val_batches", "0", "--checkpoint.monitor", "null"]
    arguments += ["--data.global_batch_size", "64"]
    arguments += ["--data.num_workers", "0"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert train.main(arguments) == 0
    (run,) = (root / name).iterdir()
    return str(run)


def compare_retrieval(theirs: dict[str, float], ours: dict[tuple[str, str], float]) -> list[tuple]:
    return [
        (
            f"scenes {said}_retrieval_recall@{k}",
            theirs[f"{said}_retrieval_recall@{k}"],
            ours["retrieval", f"{pair}/recall_at_{k}"],
        )
        for said, pair in (("image", "text_to_image"), ("text", "image_to_text"))
        for k in (1, 5, 10)
    ]


def compare_classes(
    theirs: dict[str, float], ours: dict[tuple[str, str], float], same_order: float
) -> list[tuple]:
    rows = [
        (f"cifar10 zero-shot {key}", theirs[key], ours["zero_shot", name])
        for key, name in PAIRS.items()
    ]
    lp = theirs["lp_acc1"]
    rows.append(("cifar10 linear probe, same order", lp, same_order))
    rows.append(("cifar10 linear probe, own order", lp, ours["adamw", "accuracy_at_1"]))
    rows.append(("cifar10 linear probe, L-BFGS", lp, ours["lbfgs", "accuracy_at_1"]))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="mmlight's figures beside CLIP_benchmark's.")
    parser.add_argument("--clip-benchmark", type=Path, required=True, help="folder with it")
    parser.add_argument("--cifar10-run", help="a run of pretrain/cifar10_captions.yaml")
    parser.add_argument("--scenes-run", help="a run of pretrain/scenes.yaml")
    parser.add_argument("--quick", action="store_true", help="a few samples and steps")
    arguments = parser.parse_args()
    sys.path.append(str(arguments.clip_benchmark))
    os.chdir(Path(__file__).parents[2])
    started = time.monotonic()
    limit, steps = (400, 5) if arguments.quick else (10**9, 100)
    rows: list[tuple] = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        run = arguments.scenes_run or trained("scenes", place / "runs", steps)
        folder = write_scenes(place / "scenes_set", limit)
        theirs, _ = their_scores("scenes", Embedder.load(run), folder, place)
        rows += compare_retrieval(theirs, our_scores("scenes", run, folder, place))
        run = arguments.cifar10_run or trained("cifar10_captions", place / "runs", steps)
        folder = write_cifar10(place / "cifar10_set", limit)
        embedder = Embedder.load(run)
        theirs, order = their_scores("cifar10", embedder, folder, place)
        assert order is not None
        ours = our_scores("cifar10", run, folder, place)
        rows += compare_classes(theirs, ours, probe_in_order(folder, embedder, order))
    table = Table("", "CLIP_benchmark, %", "mmlight, %", "difference, points")
    figures: dict[str, Any] = {}
    for what, their, our in rows:
        difference = 100 * (our - their)
        table.add_row(what, f"{100 * their:.3f}", f"{100 * our:.3f}", f"{difference:+.3f}")
        figures[what] = [round(100 * their, 4), round(100 * our, 4)]
    Console().print(table)
    exact = [r for r in rows if not r[0].endswith(("own order", "L-BFGS"))]
    figures["largest_difference_points"] = round(max(abs(100 * (o - t)) for _, t, o in exact), 4)
    figures["seconds"] = round(time.monotonic() - started, 1)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
