"""``mmlight shards score``, ``caption`` and ``dedup --model``: what a run's model says of samples.

New shards bear it in the samples' JSON, so ``mmlight shards filter 'similarity > 0.25'`` keeps what
fits together, as DataComp's baselines do (arXiv 2304.14108, section 3.2).
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmlight.batch import Batch
from mmlight.data.curation import dedup
from mmlight.data.curation.command import add_dedup
from mmlight.data.curation.dedup import close_pairs
from mmlight.data.curation.rewriting import Rewriting
from mmlight.data.curation.stats import caption_sources
from mmlight.data.decode.probe import kind
from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.scan import bar
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.data.shards.paths import expand
from mmlight.errors import UserError
from mmlight.experiment.messages import quieten
from mmlight.modality import MODALITIES, Modality
from mmlight.suites.features import DECODERS, Part
from mmlight.suites.model import Model, open_model
from mmlight.terminal import note

# Captions by their usual names, where none is named.
_MODEL_HELP = "a run's folder, a checkpoint, an export, or a published model"
Say = Callable[[Batch], "dict[int, dict[str, Any]]"]


@dataclass(frozen=True)
class _What:
    """What a verb writes.

    Attributes:
        help: in a line.
        name: of the value in JSON.
        build: returns what says it of a batch, and the modalities that it reads.
    """

    help: str
    name: str
    build: Callable[[Model, str, argparse.Namespace], tuple[Say, tuple[Modality, ...]]]


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight shards score``, ``caption``, or ``dedup`` with a model.

    Raises:
        UserError: no such model or shards, or a model that has nothing to say of them.
    """
    if argv[0] == "dedup":
        return _dedup(argv[1:])
    what = _VERBS[argv[0]]
    options = _parse(argv[0], what, argv[1:])
    quieten()
    model = open_model(options.model, names=set())
    device = _device(options.device)
    corpus = Corpus(load_or_build(expand(options.patterns)))
    model.build(device)
    say, modalities = what.build(model, options.name, options)
    members = _members(corpus, modalities, options)
    part = Part("shards", options.patterns, members, modalities)
    data = part.data(model, device=device, workers=options.workers)
    about = {"verb": argv[0], "name": options.name, "model": model.digest, **part.describe()}
    writing = Rewriting(corpus, options.out, about=about)
    with writing.held():
        missing = writing.missing()
        if len(missing) < len(corpus.shards):
            note(f"{len(corpus.shards) - len(missing)} of {len(corpus.shards)} shards are there")
        num_none = num_left = 0
        for shard, values in _said(data, say, corpus, missing, device, options):
            num_left += writing.write(shard, values)
            num_none += sum(value is None for value in values)
        writing.finish()
    if num_none:
        note(f"{num_none:,} samples lack what is read, or can't be decoded: without {options.name}")
    if num_left:
        note(f"{num_left:,} samples have JSON that holds no values by name: left as they are")
    said = "" if num_none or num_left else f", with {options.name} in their json"
    note(f"{len(corpus):,} samples in {options.out}{said}")
    return 0


def _parse(verb: str, what: _What, argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"mmlight shards {verb}",
        description=f"{what.help} A shard is written when it is done; after a kill the same "
        "command goes on. The new shards appear together at the end.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("patterns", nargs="+", metavar="PATTERN", help="shards, as in data.train.shards")
    add("--model", required=True, help=_MODEL_HELP)
    add("--out", type=Path, required=True, help="the folder to write to")
    add("--name", default=what.name, help="of the value in JSON (default: %(default)s)")
    for modality in MODALITIES:
        if verb == "caption" and modality == "text":
            continue
        add(
            f"--{modality}",
            nargs="+",
            metavar="MEMBER",
            help="such as txt or json:caption" if modality == "text" else "default: by its ending",
        )
    if verb == "score":
        add(
            "--pair",
            nargs=2,
            choices=MODALITIES,
            help="what is compared, where the model reads more than two modalities",
        )
    return _with_speed(parser, argv)


def _with_speed(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    add = parser.add_argument
    add("--batch-size", type=int, default=64, help="samples at once (default: %(default)s)")
    add(
        "--workers", type=int, default=DECODERS, help="processes that decode (default: %(default)s)"
    )
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: %(default)s")
    options = parser.parse_args(argv)
    for key, least in (("batch_size", 1), ("workers", 0)):
        if getattr(options, key) < least:
            raise UserError(f"--{key.replace('_', '-')} {getattr(options, key)}: at least {least}")
    return options


def _dedup(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="mmlight shards dedup",
        description="Find samples that are alike to a model's eye or ear.",
        allow_abbrev=False,
    )
    add_dedup(parser)
    options = _with_speed(parser, argv)
    if not 0 < options.least <= 1:
        raise UserError(f"--least {options.least}: a cosine above 0 and at most 1")
    quieten()
    model = open_model(options.model, names=set())
    device = _device(options.device)
    model.build(device)

    def alike(corpus: Corpus) -> Iterator[tuple[int, int]]:
        there = {kind(name) for name in options.member or corpus.extensions()}
        modality = next((m for m in ("image", "audio", "text") if m in there), None)
        if modality is None or modality not in model.modalities:
            raise UserError(
                f"--model {options.model}: has towers for {', '.join(model.modalities)}, the "
                f"samples {', '.join(options.member or corpus.extensions())}; name one by --member"
            )
        named = argparse.Namespace(**{modality: options.member})
        part = Part("shards", options.patterns, _members(corpus, [modality], named), (modality,))
        data = part.data(model, device=device, workers=options.workers)

        def say(batch: Batch) -> dict[int, dict[str, Any]]:
            rows = getattr(batch, modality)
            item_N = rows.item_N if modality == "text" else torch.arange(batch.size)
            keep_N = (batch.present(modality) & batch.valid_B[item_N]).cpu()
            features = model.encode(modality, batch).cpu()[keep_N].numpy()
            # Of several captions the last one.
            return {
                row: {"feature": feature}
                for row, feature in zip(item_N.cpu()[keep_N].tolist(), features, strict=True)
            }

        numbers, features, start = [], [], 0
        shards = range(len(corpus.shards))
        for _, values in _said(data, say, corpus, shards, device, options):
            for number, value in enumerate(values, start=start):
                if value is not None:
                    numbers.append(number)
                    features.append(value["feature"])
            start += len(values)
        for one, other in close_pairs(np.array(features), least=options.least):
            yield numbers[one], numbers[other]

    return dedup.run(options, alike)


def _scores(
    model: Model, name: str, options: argparse.Namespace
) -> tuple[Say, tuple[Modality, ...]]:
    """Say how alike two modalities of a sample are; of several captions, the one that fits best."""
    if not model.has_joint_space:
        raise UserError(
            f"--model {options.model}: compares no modalities; a contrastive run does "
            "(mmlight.tasks.contrastive.Contrastive)"
        )
    has = ", ".join(model.modalities)
    pair = options.pair or [m for m in ("image", "text", "audio") if m in model.modalities][:2]
    if len(set(pair)) < 2 or not set(pair) <= set(model.modalities):
        raise UserError(
            f"--pair {' '.join(pair)}: the model has towers for {has}; name two of them"
        )
    # Of texts a sample may have several.
    first, second = sorted(pair, key=lambda modality: modality == "text")

    def say(batch: Batch) -> dict[int, dict[str, Any]]:
        items, features = [], []
        for modality in (first, second):
            rows = getattr(batch, modality)
            item_N = rows.item_N if modality == "text" else torch.arange(batch.size)
            keep_N = (batch.present(modality) & batch.valid_B[item_N]).cpu()
            items.append(item_N.cpu()[keep_N])
            features.append(model.encode(modality, batch).cpu()[keep_N])
        places = dict(zip(items[0].tolist(), features[0], strict=True))
        best: dict[int, float] = {}
        for row, feature_D in zip(items[1].tolist(), features[1], strict=True):
            if row in places:
                best[row] = max(best.get(row, -math.inf), float(places[row] @ feature_D))
        return {row: {name: float(f"{value:.6g}")} for row, value in best.items()}

    return say, (first, second)


def _captions(
    model: Model, name: str, options: argparse.Namespace
) -> tuple[Say, tuple[Modality, ...]]:
    """Say what a captioning model writes under what it sees or hears."""
    task: Any = model.build(_device(options.device)).task
    reads = tuple(m for m in model.modalities if m != "text")
    if task.predicts != "rows" or not hasattr(task, "describe") or not reads:
        raise UserError(
            f"--model {options.model}: a {type(task).__name__} writes no captions; a captioning "
            "run does (mmlight.tasks.captioning.Captioning)"
        )

    def say(batch: Batch) -> dict[int, dict[str, Any]]:
        rows = batch.valid_B.nonzero()[:, 0].tolist()
        found = task.predict_step(batch, 0)
        return {row: {name: said["caption"]} for row, said in zip(rows, found, strict=True)}

    return say, reads


_VERBS = {
    "score": _What("Write how well image and text (or sound) fit.", "similarity", _scores),
    "caption": _What("Write the caption that a model gives.", "generated", _captions),
}


@torch.inference_mode()
def _said(
    data: ShardDataModule,
    say: Say,
    corpus: Corpus,
    shards: Sequence[int],
    device: torch.device,
    options: argparse.Namespace,
) -> Iterator[tuple[int, list[dict[str, Any] | None]]]:
    """Yield what is said of each sample of a shard, shard by shard."""
    starts = np.concatenate([[0], np.cumsum(corpus.shard_sizes)])
    batches = []
    for shard in shards:
        numbers = np.arange(starts[shard], starts[shard + 1])
        batches.append(
            np.array_split(numbers, range(options.batch_size, len(numbers), options.batch_size))
        )
    total = int(sum(corpus.shard_sizes[shard] for shard in shards))
    loader = data.loader_of("test", [batch for group in batches for batch in group])
    try:
        found = iter(loader)
        with bar("Computing", total) as advance:
            for shard, group in zip(shards, batches, strict=True):
                values: list[dict[str, Any] | None] = []
                for numbers in group:
                    batch = next(found).to(device)
                    assert batch.index_B.tolist() == numbers.tolist()
                    said = say(batch)
                    values += [said.get(row) for row in range(len(numbers))]
                    advance(len(numbers))
                yield shard, values
    finally:
        loader.close()


def _members(
    corpus: Corpus, modalities: Sequence[Modality], options: argparse.Namespace
) -> Members:
    """Return which members are read: as named, else by their endings."""
    there = corpus.extensions()
    mapped: dict[str, Any] = {}
    for modality in modalities:
        given = getattr(options, modality, None)
        if not given:
            given = (
                caption_sources(there)
                if modality == "text"
                else [e for e in there if kind(e) == modality and "." not in e]
            )
        if not given:
            raise UserError(
                f"--{modality}: no sample has any; there is {', '.join(there)}: name a member"
            )
        mapped[modality] = given
    return Members(**mapped)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no CUDA device here; leave it out")
    chosen = "cuda" if name == "auto" and torch.cuda.is_available() else name
    return torch.device("cpu" if chosen == "auto" else chosen)
