"""``mmlight shards dedup``: samples that are there twice, exactly, nearly, or to a model's eye."""

import argparse
import hashlib
import io
import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from mmlight.data.curation.copying import class_names_of, open_shards, write_copies
from mmlight.data.decode.probe import PILLOW_FORMATS, kind
from mmlight.data.scan import scan
from mmlight.data.shards.corpus import Corpus
from mmlight.errors import UserError
from mmlight.files import write_text
from mmlight.terminal import note, say

_MAX_PIXELS = 100_000_000
_BANDS = 8
_MOST_SHOWN = 20
_ROWS = 1024
Pairs = Iterable[tuple[int, int]]


def run(options: argparse.Namespace, alike: Callable[[Corpus], Pairs] | None = None) -> int:
    """Report what is there twice, or write new shards with the first of each group.

    Args:
        options: of the command line.
        alike: yields pairs of samples that are alike; by default as the options say.
    """
    corpus = open_shards(options.patterns)
    names = class_names_of(corpus) if options.out is not None else None
    if alike is None:
        extensions = _members(corpus, options.member)
        if options.near is None:
            pairs: Pairs = equal_pairs(corpus, extensions)
        else:
            pairs = near_pairs(corpus, extensions, most=options.near)
    else:
        pairs = alike(corpus)
    groups = joined(pairs)
    num_doubles = sum(map(len, groups)) - len(groups)
    keys = [[corpus.key(number) for number in group] for group in groups]
    if options.report is not None:
        write_text(options.report, "".join(f"{json.dumps(g, ensure_ascii=False)}\n" for g in keys))
    for group in keys[:_MOST_SHOWN]:
        say(f"{len(group)} alike: {', '.join(group[:8])}{' ...' if len(group) > 8 else ''}")
    if len(keys) > _MOST_SHOWN:
        say(f"and {len(keys) - _MOST_SHOWN:,} groups more (--report FILE names all)")
    say(
        f"{len(corpus):,} samples: {len(groups):,} groups, {num_doubles:,} samples too many "
        f"({num_doubles / len(corpus):.1%})"
    )
    if options.out is not None:
        doubles = {number for group in groups for number in group[1:]}
        kept = np.array([n for n in range(len(corpus)) if n not in doubles])
        write_copies(
            corpus.subset(kept),
            options.out,
            names=names,
            what="Writing",
            overwrite=options.overwrite,
        )
        note(f"{len(kept):,} samples in {options.out}")
    return 0


def equal_pairs(corpus: Corpus, extensions: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield samples whose members of some extensions hold the same bytes.

    Only those of equal size are read: sizes are in the index.
    """
    wanted = set(extensions)
    by_size: dict[tuple[tuple[str, int], ...], list[int]] = defaultdict(list)
    for number in range(len(corpus)):
        if sizes := tuple(sorted((n, s) for n, s in corpus.members(number).items() if n in wanted)):
            by_size[sizes].append(number)
    unclear = sorted(n for numbers in by_size.values() if len(numbers) > 1 for n in numbers)

    def digest(number: int) -> bytes | None:
        try:
            members = corpus.read(number, extensions)
        except OSError:
            return None  # `mmlight shards check` names it
        content = hashlib.sha256()
        for name in sorted(members):
            content.update(f"{name} {len(members[name])}\n".encode())
            content.update(members[name])
        return content.digest()

    first: dict[bytes, int] = {}
    for number, found in scan(unclear, digest, what="Hashing", total=len(unclear)):
        if found is not None and (before := first.setdefault(found, number)) != number:
            yield before, number


def near_pairs(
    corpus: Corpus, extensions: Sequence[str], *, most: int
) -> Iterator[tuple[int, int]]:
    """Yield samples whose images differ in at most so many of 64 bits of `dhash`."""
    images = [extension for extension in extensions if kind(extension) == "image"]
    if not images:
        raise UserError("--near compares images; no sample has any")

    def look(number: int) -> int | None:
        try:
            members = corpus.read(number, images)
            return dhash(members[next(name for name in images if name in members)])
        # Decoders raise what they like about broken bytes.
        except Exception:
            return None

    numbers, hashes = [], []
    for number, found in scan(range(len(corpus)), look, what="Looking", total=len(corpus)):
        if found is not None:
            numbers.append(number)
            hashes.append(found)
    for one, other in near_hashes(np.array(hashes, np.uint64), most=most):
        yield numbers[one], numbers[other]


def near_hashes(hash_N: np.ndarray, *, most: int) -> Iterator[tuple[int, int]]:
    """Yield places of hashes that differ in at most so many bits, fewer than 8.

    Of eight bands of eight bits, two that differ in fewer than eight bits have one in common: only
    those are compared.
    """
    values_U, place_N = np.unique(hash_N, return_inverse=True)
    first_U = np.full(len(values_U), -1)
    for place, value in enumerate(place_N.tolist()):
        if first_U[value] < 0:
            first_U[value] = place
        else:
            yield int(first_U[value]), place
    if not most:
        return
    for band in range(_BANDS):
        bits_U = (values_U >> np.uint64(8 * band)) & np.uint64(255)
        for bits in range(256):
            rows = np.flatnonzero(bits_U == bits)
            for start in range(0, len(rows), _ROWS):
                part = rows[start : start + _ROWS]
                distance = np.bitwise_count(values_U[part][:, None] ^ values_U[rows][None, :])
                for one, other in np.argwhere(distance <= most).tolist():
                    if part[one] < rows[other]:
                        yield int(first_U[part[one]]), int(first_U[rows[other]])


def dhash(data: bytes) -> int:
    """Return 64 bits of an image: whether each of 8 x 8 pixels is brighter than its neighbour.

    (Krawetz's difference hash.) The same for other sizes, formats and brightness, nearly.
    """
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError("too many pixels")
            image.draft("L", (64, 64))
            small = ImageOps.exif_transpose(image).convert("L")
            grey_HW = np.asarray(small.resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = (grey_HW[:, 1:] > grey_HW[:, :-1]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def close_pairs(feature_ND: np.ndarray, *, least: float) -> Iterator[tuple[int, int]]:
    """Yield places of unit-length features whose cosine is at least so much."""
    for start in range(0, len(feature_ND), _ROWS):
        part = feature_ND[start : start + _ROWS]
        # Only what comes after: each pair once.
        similarity = part @ feature_ND[start:].T
        for one, other in np.argwhere(similarity >= least).tolist():
            if one < other:
                yield start + one, start + other


def joined(pairs: Pairs) -> list[list[int]]:
    """Return groups of what pairs join, each and all in ascending order."""
    above: dict[int, int] = {}

    def root(number: int) -> int:
        while (up := above.setdefault(number, number)) != number:
            above[number] = above[up]
            number = up
        return number

    for one, other in pairs:
        first, second = sorted((root(one), root(other)))
        above[second] = first
    groups: dict[int, list[int]] = defaultdict(list)
    for number in sorted(above):
        groups[root(number)].append(number)
    return sorted(groups.values())


def _members(corpus: Corpus, given: Sequence[str] | None) -> list[str]:
    there = corpus.extensions()
    for name in given or ():
        if name not in there:
            raise UserError(f"--member {name}: no sample has it; there is {', '.join(there)}")
    if given:
        return list(given)
    found = [name for name in there if kind(name) in ("image", "audio")]
    return found or [name for name in there if kind(name) == "text" and name != "cls"] or [*there]
