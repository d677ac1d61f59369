"""New shards beside old ones, one for one, of samples with a further value in their JSON.

What takes hours is written as it goes: a shard that is finished stays, however the process ends,
and the next start goes on behind it. Until the last one is there, all lie in a hidden folder, so
that no training begins with half of a set.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmlight.class_names import CLASS_NAMES
from mmlight.data.curation.copying import class_names_of, local_paths
from mmlight.data.packing.write import write_shard, writing_alone
from mmlight.data.shards import index
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index_file import ShardIndex
from mmlight.errors import UserError, naming
from mmlight.files import plain, read_json, sync_folder, write_bytes, write_json
from mmlight.folders import made
from mmlight.text_file import parse_json

_FOLDER, _ABOUT = ".writing", "about.json"


class Rewriting:
    """Writes a set of shards anew, shard by shard.

    Args:
        corpus: the samples, all of each shard.
        out_dir: where to.
        about: what the new shards depend on besides the old ones; a start with other values does
            not go on with what an earlier one has written.

    Raises:
        UserError: the folder holds other shards, or what another start has begun.
    """

    def __init__(self, corpus: Corpus, out_dir: Path, *, about: Mapping[str, Any]) -> None:
        if out_dir.resolve() in {path.resolve().parent for path in local_paths(corpus)}:
            raise UserError(f"--out {out_dir}: holds the shards that are read; name another folder")
        if old := next(iter(sorted(out_dir.glob("*.tar"))), None):
            raise UserError(f"--out {out_dir}: holds shards already ({old.name}); name another")
        self._corpus = corpus
        self._out_dir = out_dir
        self._names = class_names_of(corpus)
        self.folder = out_dir / _FOLDER
        shards = hashlib.sha256("\n".join(shard.sha256 for shard in corpus.shards).encode())
        self._about = plain({**about, "shards": shards.hexdigest()})

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing the same shards.

        Raises:
            UserError: another process does.
        """
        with made(self._out_dir), writing_alone(self._out_dir):
            self.folder.mkdir(exist_ok=True)
            known = read_json(self.folder / _ABOUT)
            if known is None:
                write_json(self.folder / _ABOUT, self._about)
            elif known != self._about:
                names = known | self._about
                differing = [n for n in sorted(names) if known.get(n) != self._about.get(n)]
                raise UserError(
                    f"--out {self._out_dir}: {self.folder} was begun with other "
                    f"{', '.join(differing)}; remove it, or name another folder"
                )
            yield

    def missing(self) -> list[int]:
        """Return the numbers of the shards that are not written yet."""
        return [n for n in range(len(self._corpus.shards)) if not self._path(n).exists()]

    def write(self, shard: int, values: Sequence[Mapping[str, Any] | None]) -> int:
        """Write a shard whose samples have further values in their JSON.

        Args:
            shard: its number.
            values: of each of its samples; None leaves a sample as it is.

        Returns:
            How many samples have JSON that holds no values by name, and so are left as they are.

        Raises:
            OSError: a sample is damaged, or the disk is full.
        """
        num_left = 0
        start = int(self._corpus.shard_sizes[:shard].sum())

        def samples() -> Iterator[dict[str, Any]]:
            nonlocal num_left
            for number, value in enumerate(values, start=start):
                raw = self._corpus.read_all(number)
                sample: dict[str, Any] = {"__key__": self._corpus.origin(number)[1], **raw}
                if value is not None:
                    known = _object(raw.get("json", b"{}"))
                    if known is None:
                        num_left += 1
                    else:
                        sample["json"] = json.dumps({**known, **value}, ensure_ascii=False)
                yield sample

        path = self._path(shard)
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)  # of a process that was killed
        try:
            with naming(self._out_dir / path.name):
                write_shard(part, samples())
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        os.replace(part, path)
        sync_folder(self.folder)
        return num_left

    def finish(self) -> list[ShardIndex]:
        """Read all shards back, and put them in place together; return them."""
        paths = [self._path(number) for number in range(len(self._corpus.shards))]
        for shard in index.load_or_build(paths, progress=False):
            if shard.index_path.parent != self.folder:  # which names them by their old place
                shard.index_path.unlink()
        if self._names is not None:
            write_bytes(self._out_dir / CLASS_NAMES, self._names)
        for path in paths:
            beside = path.with_name(f"{path.name}.index")
            for file in (beside, path):  # a shard after its index
                if file.exists():
                    os.replace(file, self._out_dir / file.name)
        (self.folder / _ABOUT).unlink(missing_ok=True)
        self.folder.rmdir()
        return index.load_or_build([self._out_dir / path.name for path in paths], progress=False)

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.tar"


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = parse_json(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
