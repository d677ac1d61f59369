"""What samples say of themselves (a speaker, a label, a fold), read for all of a corpus at once."""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mmlight.data.checks import check_keys
from mmlight.data.labels import Labels
from mmlight.data.members import Contents, Members, extensions_of, parse_source
from mmlight.data.sample import SampleSet
from mmlight.data.scan import scan
from mmlight.data.shards.corpus import Corpus
from mmlight.errors import UserError, nearest

_log = logging.getLogger(__name__)

_FOLD = "fold:"


def read_values(
    corpus: Corpus,
    sources: Sequence[str],
    *,
    members: Members,
    seed: int,
    where: str,
    labels: Labels | None = None,
) -> dict[str, list[str | None]]:
    """Return a value of each sample for each source, as text; None where a sample has none.

    Members are read from each sample once, about 20,000 samples a second from a local disk.

    Args:
        corpus: the samples.
        sources: named as in `Members` (``json:speaker``, ``cls``); or ``fold:5``, the number (0 to
            4) of the part that a sample is in when all are dealt into five equal parts, with
            equally many samples of each label in every part.
        members: names the label, for ``fold:5``.
        seed: of the dealing.
        where: name of the setting for messages.
        labels: how labels are read, which are class numbers then; None takes them as written.

    Raises:
        UserError: a member or a key that no sample has, or whose values are lists or mappings.
    """
    read = [source for source in sources if not is_fold(source)]
    if len(read) < len(sources) and members.label is not None:
        read.append(members.label)
    read = list(dict.fromkeys(read))
    _check(corpus, read, where=where)
    extensions = extensions_of(read)
    found: dict[str, list[str | None]] = {source: [] for source in read}
    classes: list[str | None] = []
    unread: list[str] = []

    def look(number: int) -> Contents | OSError:
        try:
            return Contents(corpus.read(number, extensions))
        except OSError as error:
            return error

    numbers = range(len(corpus) if read else 0)
    for number, seen in scan(numbers, look, what="Reading", shown=False):
        if isinstance(seen, OSError):
            unread.append(str(seen))
        contents = Contents({}) if isinstance(seen, OSError) else seen
        for source in read:
            found[source].append(_value(contents, source, where=where))
            if labels is not None and source == members.label and source in sources:
                classes.append(labels.text_of(corpus, number, contents, source))
    if unread:
        _log.warning(
            "%s: %d samples can't be read and count as without a value, the first: %s",
            *(where, len(unread), unread[0]),
        )
    for source in sources:
        if is_fold(source):
            strata = found[members.label] if members.label is not None else [""] * len(corpus)
            count = _num_folds(source, len(corpus), where=where)
            found[source] = _deal(corpus, strata, count=count, seed=seed)
    if classes and members.label is not None:
        found[members.label] = classes  # parts are dealt by what is written
    return {source: found[source] for source in sources}


def is_fold(source: str) -> bool:
    """Return whether a source stands for parts that are dealt out, such as ``fold:5``."""
    return source.startswith(_FOLD)


def as_text(value: object) -> str:
    """Return how a value is compared: ``true`` for a truth, numbers and strings as written."""
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def drawn_order(corpus: Corpus, *, seed: int) -> list[int]:
    """Return all sample numbers in an order that depends on (seed, the samples' keys) alone.

    So a sample keeps its place relative to others, whatever else is in the corpus.
    """

    def place(number: int) -> tuple[bytes, int]:
        text = f"{seed} {corpus.origin(number)[1]}"
        return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), number

    return sorted(range(len(corpus)), key=place)


def _deal(
    corpus: Corpus, labels: Sequence[str | None], *, count: int, seed: int
) -> list[str | None]:
    """Deal samples out like cards, label after label, so that parts differ by one at most."""
    order = drawn_order(corpus, seed=seed)
    order.sort(key=lambda number: labels[number] or "")
    parts = np.empty(len(corpus), np.int64)
    parts[order] = np.arange(len(corpus)) % count
    return [str(part) for part in parts.tolist()]


def _num_folds(source: str, num_samples: int, *, where: str) -> int:
    text = source.removeprefix(_FOLD)
    if not text.isdecimal() or not 2 <= int(text) <= num_samples:
        raise UserError(
            f"{where}: '{source}' must be fold: and a number from 2 to {num_samples} (samples)"
        )
    return int(text)


def _check(corpus: Corpus, sources: Sequence[str], *, where: str) -> None:
    for source in sources:
        extension, key = parse_source(source)
        present = corpus.extensions()
        if extension not in present:
            raise UserError(
                f"{where}: no sample has a member '{extension}'{nearest(extension, present)}; "
                f"there is {', '.join(sorted(present))}"
            )
        if key is not None:
            check_keys(corpus, [source], where=f"{where}: no sample")


def _value(contents: Contents, source: str, *, where: str) -> str | None:
    try:
        value = contents.value(source)
    except ValueError:
        return None  # a bad sample: it is counted when its turn comes
    if value is None:
        return None
    if isinstance(value, bytes | list | dict):
        raise UserError(f"{where}: '{source}' is no text and no number; name another member or key")
    return as_text(value)


def carry(all_members: Sequence[Members], source: str) -> str:
    """Have batches carry a further field; return its name. Call it before a split is opened.

    Args:
        all_members: of all splits.
        source: a value such as ``json:speaker``, whose field is then named `speaker`; or the name
            of a field that the members have already.
    """
    if all(source in members.fields for members in all_members):
        return source
    extension, key = parse_source(source)
    name = (key or extension).rpartition(".")[2]
    for members in all_members:
        members.fields[name] = source
    return name


def count_values(samples: SampleSet, field: str, *, seed: int) -> Counter[str]:
    """Return how many samples of a split have each value of a field; each is read once."""
    counts: Counter[str] = Counter()
    for corpus, members in samples.parts:
        source = members.fields[field]
        where = f"data.members.fields.{field}"
        values = read_values(corpus, [source], members=members, seed=seed, where=where)
        counts.update(value for value in values[source] if value is not None)
    return counts
