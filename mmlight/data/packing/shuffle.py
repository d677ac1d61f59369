"""Samples in another order, whatever their number: they wait in a file, and their places in memory.

Eight bytes a sample stay in memory; files that samples name are read when their turn comes.
"""

import json
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from mmlight.data.order.cursor import permutation
from mmlight.data.packing.source_files import StoredFile

_HEAD_BYTES = 8


def shuffled(
    samples: Iterable[Mapping[str, Any]],
    *,
    seed: int,
    folder: Path,
    encode: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Yield samples in an order that the seed and their number decide.

    Args:
        samples: as `mmlight.data.packing.write.pack` takes them.
        seed: of the order.
        folder: where they wait; the file has no name there.
        encode: turns the members of a sample into bytes, but for files that it names.
    """
    places = array("q")
    sources: list[Any] = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for sample in samples:
            places.append(file.tell())
            _put(file, encode(sample), sources)
        order = permutation(len(places), seed=seed, epoch=0, use=0, place=(0, 0))
        for number in order:
            file.seek(places[number])
            yield _take(file, sources)


def _put(file: IO[bytes], sample: Mapping[str, Any], sources: list[Any]) -> None:
    head: dict[str, Any] = {}
    bodies: list[bytes] = []
    for name, value in sample.items():
        if isinstance(value, StoredFile):
            if value.source not in sources:
                sources.append(value.source)
            head[name] = [sources.index(value.source), str(value.path), value.where]
        elif isinstance(value, bytes):
            head[name] = len(value)
            bodies.append(value)
        else:
            head[name] = value  # the key
    text = json.dumps(head).encode()
    file.write(len(text).to_bytes(_HEAD_BYTES, "little"))
    file.writelines([text, *bodies])


def _take(file: IO[bytes], sources: list[Any]) -> dict[str, Any]:
    size = int.from_bytes(file.read(_HEAD_BYTES), "little")
    sample: dict[str, Any] = {}
    for name, value in json.loads(file.read(size)).items():
        if isinstance(value, list):
            source, path, where = value
            value = StoredFile(sources[source], Path(path), where)
        sample[name] = file.read(value) if isinstance(value, int) else value
    return sample
