"""How the sources of a mixture are weighed, named and put into one order of training."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from mmlight.data.checks import only_read
from mmlight.data.members import Members
from mmlight.data.order.bucket import Bucketed, lengths_of
from mmlight.data.order.cursor import Order, TrainOrder
from mmlight.data.order.mixture import Batches, Mixture
from mmlight.data.order.shares import Weight
from mmlight.data.sample import BadMemberError, Decoding, SampleSet, decode_sample
from mmlight.data.shards.corpus import Corpus
from mmlight.data.splits.split import Split
from mmlight.data.text import TextSettings
from mmlight.errors import UserError

WeightsBy = Literal["samples", "tokens"]
# Samples of a source whose tokens are counted, the first ones: a fifth of a second.
_NUM_COUNTED = 1000
_AT_ONCE = 64
_NO_LIMIT = 1 << 30
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def source_names(sources: Sequence[Split]) -> list[str]:
    """Return what the log calls each source of a split; nothing where there is only one."""
    if len(sources) < 2:
        return []
    return [split.name or f"source_{number}" for number, split in enumerate(sources)]


def check_names(splits: Mapping[str, Sequence[Split]]) -> None:
    """Refuse names of sources that the log could not tell apart.

    Raises:
        UserError: naming the split.
    """
    for where, sources in splits.items():
        names = source_names(sources)
        for name in names:
            if not _NAME.fullmatch(name):
                raise UserError(
                    f"data.{where}: name '{name}' of a source: letters, digits, dots, dashes and "
                    "underscores make a name"
                )
            if names.count(name) > 1:
                raise UserError(f"data.{where}: two sources have the name '{name}'; name each")
        if not names and any(split.name is not None for split in sources):
            raise UserError(f"data.{where}.name has an effect only if data.{where} is a list")


def train_order(
    samples: SampleSet,
    splits: Sequence[Split],
    *,
    global_batch: int,
    seed: int,
    window: int,
    num_lanes: int | None,
    bucket_batches: int | None,
    samples_per_epoch: int | None,
    weights_by: WeightsBy,
    batches: Batches,
    text: TextSettings | None,
    decoding: Decoding,
) -> TrainOrder:
    """Return the order of training; arguments are those of the data module.

    Raises:
        UserError: settings that the samples do not fit.
    """
    sizes = [corpus.shard_sizes for corpus, _ in samples.parts]
    order: TrainOrder
    if len(sizes) == 1:
        order = Order(
            sizes[0], global_batch=global_batch, seed=seed, num_lanes=num_lanes, window=window
        )
    else:
        weights: list[Weight | Mapping[int, Weight]] = [split.weight for split in splits]
        if weights_by == "tokens":
            tokens = [
                Fraction(repr(float(split.tokens_per_sample)))
                if split.tokens_per_sample is not None
                else tokens_per_sample(
                    corpus, members, text=text, decoding=decoding, where=f"data.train[{number}]"
                )
                for number, (split, (corpus, members)) in enumerate(
                    zip(splits, samples.parts, strict=True)
                )
            ]
            weights = [_over(w, each) for w, each in zip(weights, tokens, strict=True)]
        order = Mixture(
            sizes,
            weights=weights,
            global_batch=global_batch,
            seed=seed,
            window=window,
            samples_per_epoch=samples_per_epoch,
            batches=batches,
        )
    if bucket_batches is None:
        return order
    return Bucketed(
        order,
        lengths_of(samples),
        global_batch=global_batch,
        pool_batches=bucket_batches,
        seed=seed,
    )


def tokens_per_sample(
    corpus: Corpus, members: Members, *, text: TextSettings | None, decoding: Decoding, where: str
) -> Fraction:
    """Return the mean number of tokens of the first 1,000 samples of a source, exactly.

    They are those that training sees: of texts cut as the settings say, of the mean over a sample's
    captions, and of its answer. A sample that can't be read counts as none.

    Raises:
        UserError: the source has no text.
    """
    mapped = "text" in members.modalities() or members.answer is not None
    if text is None or not mapped:
        raise UserError(
            f"data.weights_by: tokens needs the number of tokens of a sample of {where}, and it "
            f"maps no text; set {where}.tokens_per_sample (of a picture, its patches, say)"
        )
    only_text = replace(only_read(members, ("text",)), fields={}, label=None, rejected=None)
    if members.class_captions:
        only_text = replace(only_text, label=members.label)
    plain = replace(decoding, image=None, audio=None, corruptor=None, needs=())
    samples = SampleSet([(corpus, only_text)])
    texts: list[tuple[str, int]] = []
    num_samples = 0
    for number in range(min(len(corpus), _NUM_COUNTED)):
        try:
            sample = decode_sample(samples, number, plain, draws=None)
        except BadMemberError:
            continue
        num_samples += 1
        for told in (sample.captions, sample.answers):
            texts += [(one, len(told)) for one in told]
    total = sum(
        (
            Fraction(count, among)
            for count, (_, among) in zip(_counts([t for t, _ in texts], text), texts, strict=True)
        ),
        Fraction(0),
    )
    if not total:
        raise UserError(
            f"data.weights_by: the first {_NUM_COUNTED:,} samples of {where} have no text; set "
            f"{where}.tokens_per_sample"
        )
    return total / num_samples


def _counts(texts: Sequence[str], settings: TextSettings) -> list[int]:
    most = _NO_LIMIT if settings.documents == "packed" else settings.most_tokens
    counts: list[int] = []
    for first in range(0, len(texts), _AT_ONCE):
        some = list(texts[first : first + _AT_ONCE])
        encoding = settings.known_tokenizer.encode_batch(some, max_tokens=most, offsets=False)
        counts += np.asarray(encoding.mask_NL).sum(1).tolist()
    return counts


def _over(weight: Weight | Mapping[int, Weight], tokens: Fraction) -> Any:
    if isinstance(weight, Mapping):
        return {step: _over(value, tokens) for step, value in weight.items()}
    return Fraction(repr(float(weight))) / tokens if np.isfinite(float(weight)) else weight
