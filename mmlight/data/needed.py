"""What of the mapped members a model reads: the rest is neither decoded nor required."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mmlight.data.members import Members, parse_source
from mmlight.data.sample import SampleSet
from mmlight.data.shards.corpus import Corpus

_PLURALS = {"image": "images", "text": "texts", "audio": "sounds"}
# Beyond so many samples, looking through the index takes longer than a line is worth.
_MOST_COUNTED = 2_000_000


def only_read(members: Members, reads: Collection[str]) -> Members:
    """Return a mapping without what a model does not read.

    Args:
        members: the mapping.
        reads: modalities, and ``boxes``.
    """
    changes: dict[str, Any] = {}
    if "image" not in reads or "boxes" not in reads:
        changes |= {"boxes": None, "box_labels": None, "box_format": "xyxy"}
    if "image" not in reads:
        changes["image"] = None
    if "audio" not in reads:
        changes["audio"] = None
    if "text" not in reads:
        changes |= dict(text=None, text_lines=False, text_words=False, class_captions=None)
    return replace(members, **changes)


def what_is_there(name: str, counts: Mapping[str, int]) -> str:
    """Return a line on a split: ``train 49: 41 images, 48 texts, 3 unreadable``.

    Args:
        name: the split.
        counts: of `count_what_is_there`.
    """
    told = [f"{count:,} {kind}" for kind, count in counts.items() if kind != "samples"]
    total = f"{name} {counts['samples']:,}"
    return f"{total}: {', '.join(told)}" if told else total


def count_what_is_there(samples: SampleSet) -> dict[str, int]:
    """Return how many samples a split has, how many with each modality, and what cannot be read.

    Of the index alone: unreadable is an image or a sound whose header says nothing; what else is
    broken shows when it is decoded.

    Args:
        samples: of the split, mapped to what is read.
    """
    has_index = all(corpus.shards for corpus, _ in samples.parts)  # plain files have none
    if len(samples) > _MOST_COUNTED or not has_index:
        return {"samples": len(samples)}
    counts: dict[str, int] = {}
    unreadable = 0
    for corpus, members in samples.parts:
        is_bad = np.zeros(len(corpus), dtype=bool)
        for modality, sources in _sources(members).items():
            has = corpus.largest_member([parse_source(source)[0] for source in sources]) > 0
            counts[modality] = counts.get(modality, 0) + int(has.sum())
            is_bad |= has & _is_unreadable(corpus, modality)
        unreadable += int(is_bad.sum())
    found = {"samples": len(samples)}
    found |= {_PLURALS[modality]: count for modality, count in counts.items()}
    return found | ({"unreadable": unreadable} if unreadable else {})


def _sources(members: Members) -> dict[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for entry, sources in members.groups().items():
        modality = entry.partition(".")[0]
        if modality in _PLURALS:
            found.setdefault(modality, []).extend(sources)
    if members.class_captions and members.label is not None:
        found["text"] = [members.label]
    return {modality: found[modality] for modality in _PLURALS if modality in found}


def _is_unreadable(corpus: Corpus, modality: str) -> np.ndarray:
    if modality == "image":
        return np.asarray(corpus.image_sizes[:, 0] == 0)
    if modality == "audio":
        return np.isnan(corpus.durations)
    return np.zeros(len(corpus), dtype=bool)
