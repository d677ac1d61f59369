"""Checks of a mapping against the samples themselves, before training begins."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from mmlight.data.members import Contents, Members, extensions_of, parse_source
from mmlight.data.sample import SampleSet
from mmlight.data.shards.corpus import Corpus
from mmlight.errors import UserError, nearest
from mmlight.modality import MODALITIES

# Enough to meet every label and key of a small data set, a fifth of a second for a large one.
MAX_LOOKED_AT = 20_000


def check_members(corpus: Corpus, members: Members, *, where: str, key: str = "members") -> None:
    """Refuse members that no sample of a data set has.

    Extensions are known of all samples; JSON keys are looked up in up to 20,000 samples spread over
    the corpus.

    Raises:
        UserError: an entry names only members, or only keys, that no sample has.
    """
    present = corpus.extensions()
    groups = members.groups()
    for entry, sources in groups.items():
        extensions = extensions_of(sources, present) or extensions_of(sources)
        if not any(present.get(extension) for extension in extensions):
            there = ", ".join(sorted(present)) or "none"
            wanted = " or ".join(f"'{extension}'" for extension in dict.fromkeys(extensions))
            raise UserError(
                f"{key}.{entry}: no sample of {where} has a member {wanted}; it has {there}"
                f"{nearest(extensions[0], present)}"
            )
    for entry, sources in groups.items():
        if all(parse_source(source)[1] is not None for source in sources):
            check_keys(corpus, sources, where=f"{key}.{entry}: no sample of {where}")


def without_absent_targets(corpus: Corpus, members: Members) -> Members:
    """Return the mapping without labels and other targets that no sample has, for predictions.

    What the model reads (image, text, audio) stays, so that its lack is found.
    """
    present = corpus.extensions()
    absent: set[str] = set()
    for entry, sources in members.groups().items():
        if entry.partition(".")[0] in MODALITIES:
            continue
        there = [source for source in sources if present.get(parse_source(source)[0])]
        are_keyed = all(parse_source(source)[1] is not None for source in there)
        if not there or (are_keyed and not _has_key(corpus, there)):
            absent.add(entry)
    if "answer" in absent:
        absent.add("rejected")
    if absent & {"boxes", "box_labels"}:  # one says nothing without the other
        absent |= {"boxes", "box_labels"}
    changes: dict[str, Any] = {entry: None for entry in absent if not entry.startswith("fields.")}
    changes["fields"] = {n: s for n, s in members.fields.items() if f"fields.{n}" not in absent}
    if "label" in absent:
        changes["class_captions"] = None
    if "answer" in absent:
        changes["paired_answers"] = False
    return replace(members, **changes)


def _has_key(corpus: Corpus, sources: list[str]) -> bool:
    try:
        check_keys(corpus, sources, where="")
    except UserError:
        return False
    return True


def spread(corpus: Corpus) -> Iterator[int]:
    """Yield the numbers of up to 20,000 samples, evenly spread over what is at hand of a corpus."""
    near = corpus.at_hand()
    total = len(corpus) if near is None else len(near)
    count = min(total, MAX_LOOKED_AT)
    places = (place * total // count for place in range(count))
    return places if near is None else (int(near[place]) for place in places)


def read_spread(corpus: Corpus, sources: list[str]) -> Iterator[tuple[int, Contents]]:
    """Yield samples that lie evenly over a corpus, 20,000 at most: number and what is asked for.

    One that cannot be read is left out: it is counted when its turn comes.
    """
    extensions = extensions_of(sources)
    for number in spread(corpus):
        with suppress(OSError):
            yield number, Contents(corpus.read(number, extensions))


def check_keys(corpus: Corpus, sources: list[str], *, where: str) -> None:
    """Raise UserError, beginning with `where`, if no sample has any of these keys."""
    there: set[str] = set()
    for _, contents in read_spread(corpus, sources):
        for source in sources:
            try:
                if contents.value(source) is not None:
                    return
                whole = contents.value(parse_source(source)[0])
            except ValueError:
                continue  # a bad sample: it is counted when its turn comes
            if isinstance(whole, Mapping):
                there |= set(whole)
    keys = " or ".join(f"'{source}'" for source in sources)
    wanted = parse_source(sources[0])[1] or ""
    raise UserError(
        f"{where} has {keys}; keys there are {', '.join(sorted(there)) or 'none'}"
        f"{nearest(wanted, there)}"
    )


_PLURALS = {"image": "images", "text": "texts", "audio": "sounds"}
# Beyond so many samples, looking through the index takes longer than a line is worth.
_MOST_COUNTED = 2_000_000


def only_read(members: Members, reads: Collection[str]) -> Members:
    """Return a mapping without the modalities, and ``boxes``, that a model does not read."""
    changes: dict[str, Any] = {}
    if "image" not in reads or "boxes" not in reads:
        changes |= {"boxes": None, "box_labels": None, "box_format": "xyxy"}
    if "image" not in reads:
        changes["image"] = None
    if "audio" not in reads:
        changes["audio"] = None
    if "text" not in reads:
        changes |= dict(text=None, text_lines=False, text_words=False, class_captions=None)
        changes["paired_answers"] = False
    return replace(members, **changes)


def what_is_there(name: str, counts: Mapping[str, int]) -> str:
    """Return a line on the counts of a split: ``train 49: 41 images, 48 texts, 3 unreadable``."""
    shown = [f"{count:,} {kind}" for kind, count in counts.items() if kind != "samples"]
    total = f"{name} {counts['samples']:,}"
    return f"{total}: {', '.join(shown)}" if shown else total


def count_what_is_there(samples: SampleSet) -> dict[str, int]:
    """Return how many samples a split has, how many with each modality, and what cannot be read.

    Of the index alone: unreadable is an image or a sound whose header says nothing; what else is
    broken shows when it is decoded.
    """
    has_index = all(corpus.has_shards for corpus, _ in samples.parts)
    if len(samples) > _MOST_COUNTED or not has_index:
        return {"samples": len(samples)}
    counts: dict[str, int] = {}
    unreadable = 0
    for corpus, members in samples.parts:
        is_bad = np.zeros(len(corpus), dtype=bool)
        for modality, sources in _sources(members).items():
            has = corpus.largest_member(extensions_of(sources, corpus.extensions())) > 0
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
