"""Samples of shards as they are, for new shards: their keys kept apart, their classes named."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmlight.class_names import CLASS_NAMES, names_beside
from mmlight.data.packing.write import DEFAULT_SAMPLES_PER_SHARD, pack, repeated
from mmlight.data.scan import scan
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.data.shards.index_file import ShardIndex
from mmlight.data.shards.paths import expand
from mmlight.errors import UserError
from mmlight.text_file import MIB, read_regular

_LARGEST_NAMES = 64 * MIB


def open_shards(patterns: Sequence[str]) -> Corpus:
    """Return the samples of shards, which are indexed where they are not yet."""
    return Corpus(load_or_build(expand(patterns)))


def copies(corpus: Corpus, *, what: str) -> Iterator[dict[str, Any]]:
    """Yield samples as `pack` takes them. Equal keys of several shards get their shard's name.

    Raises:
        OSError: a sample is damaged or cannot be read.
    """
    is_repeated = repeated(corpus)

    def copy(number: int) -> dict[str, Any]:
        key = corpus.key(number) if is_repeated[number] else corpus.origin(number)[1]
        return {"__key__": key, **corpus.read_all(number)}

    for _, sample in scan(range(len(corpus)), copy, what=what, total=len(corpus)):
        yield sample


def write_copies(
    corpus: Corpus,
    out_dir: Path,
    *,
    names: bytes | None,
    what: str,
    samples_per_shard: int | None = None,
    overwrite: bool = False,
    shuffle_seed: int | None = None,
) -> list[ShardIndex]:
    """Write samples into new shards (see `pack`), with the names of their classes.

    Args:
        corpus: the samples.
        out_dir: where to.
        names: of `class_names_of`.
        what: is done, for the bar.
        samples_per_shard: by default as many as the largest of their shards holds.
        overwrite: replace shards of an earlier pack.
        shuffle_seed: permutes the samples.
    """
    read = {path.resolve().parent for path in local_paths(corpus)}
    if out_dir.resolve() in read:
        raise UserError(f"--out {out_dir}: holds the shards that are read; name another folder")
    if samples_per_shard is None:
        largest = max(shard.num_samples for shard in corpus.shards)
        samples_per_shard = max(largest, min(DEFAULT_SAMPLES_PER_SHARD, len(corpus)))
    return pack(
        copies(corpus, what=what),
        out_dir,
        samples_per_shard=samples_per_shard,
        overwrite=overwrite,
        shuffle_seed=shuffle_seed,
        class_names=lambda: names,
    )


def class_names_of(corpus: Corpus) -> bytes | None:
    """Return the class names that lie beside labelled shards; None where there are none.

    Raises:
        UserError: two sets of shards have different ones: their numbers mean different classes.
    """
    labelled: dict[Path, bool] = {}
    for shard in corpus.shards:
        if isinstance(shard.path, Path):
            has_labels = "cls" in {name.rpartition(".")[2] for name in shard.extensions}
            folder = shard.path.parent
            labelled[folder] = labelled.get(folder, False) or has_labels
    found: dict[bytes | None, Path] = {}
    for folder in [f for f, has_labels in labelled.items() if has_labels] or labelled:
        path = names_beside(folder)
        try:
            names = None if path is None else read_regular(path, most=_LARGEST_NAMES)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: {error}") from error
        found.setdefault(names, folder)
    if len(found) > 1 and any(labelled.values()):
        first, second = list(found.values())[:2]
        raise UserError(
            f"{first} and {second} have not the same {CLASS_NAMES}, so their labels mean different "
            "classes; pack one of them anew with --class-names of the other"
        )
    return next(iter(found)) if len(found) == 1 else None


def local_paths(corpus: Corpus) -> list[Path]:
    """Return the paths of those shards that lie on a disk."""
    return [shard.path for shard in corpus.shards if isinstance(shard.path, Path)]
