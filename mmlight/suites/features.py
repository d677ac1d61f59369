"""Features of a set, computed over all ranks piece by piece and kept by the hash of their content.

A piece is some hundred samples of one shard. Whichever rank computes it, its batches are the same,
so one rank and several get the same features; what is computed stays, however a run ends.

Shapes as in `mmlight.batch`; S samples, N rows of a modality (every caption is one).
"""

import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mmlight import comm
from mmlight.batch import Batch
from mmlight.class_names import class_numbers
from mmlight.data.checks import only_read
from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.shards.corpus import Corpus
from mmlight.data.splits.split import Split, open_split
from mmlight.errors import UserError
from mmlight.files import plain, write_bytes
from mmlight.modality import Modality
from mmlight.suites.model import Model
from mmlight.terminal import note

PIECE = 512
# Processes that decode: torch warns of more than there are cores.
DECODERS = min(2, len(os.sched_getaffinity(0)))
_VERSION = 1
_TARGETS = "targets"


@dataclass(frozen=True)
class Part:
    """Samples of which a model's features are wanted.

    Attributes:
        where: what messages call it.
        shards: as a split names them.
        members: which members are what.
        modalities: whose features are wanted.
        class_names: of labels.
        targets: member with several classes of a sample.
        limit: the first so many samples.
    """

    where: str
    shards: str | list[str]
    members: Members
    modalities: tuple[Modality, ...]
    class_names: tuple[str, ...] = ()
    targets: str | None = None
    limit: int | None = None

    @property
    def read(self) -> Members:
        """The members that are read: others need not be there."""
        members = only_read(self.members, self.modalities)
        members.fields = {} if self.targets is None else {_TARGETS: self.targets}
        return members

    def corpus(self) -> Corpus:
        """Return its samples."""
        split = Split(self.shards, limit=self.limit)
        try:
            return open_split(split, members=self.read, seed=0, where="shards")
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from error

    def data(self, model: Model, *, device: torch.device, workers: int) -> ShardDataModule:
        """Return its samples prepared as a model takes them."""
        settings = dict(model.build(device).settings)
        if "image" in self.modalities and not self.read.has_frames:
            # One that was trained on videos takes pictures, too.
            settings["image"] = replace(settings["image"], frames=None)
        try:
            data = ShardDataModule(
                members=self.read,
                test=Split(self.shards, limit=self.limit),
                **{name: settings[name] for name in self.modalities},
                class_names=list(self.class_names) or None,
                num_workers=workers,
            )
            data.samples("test")
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from error
        return data

    def describe(self) -> dict[str, Any]:
        """Return what its features depend on besides the model and the shards' content."""
        return {
            "version": _VERSION,
            "members": asdict(self.read),
            "modalities": self.modalities,
            "class_names": self.class_names,
        }


@dataclass(frozen=True)
class Piece:
    """Some samples of a part.

    Attributes:
        numbers: int64, their numbers in it.
        path: where their features are kept.
    """

    numbers: np.ndarray
    path: Path


def pieces_of(part: Part, model: Model, *, cache: Path, corpus: Corpus) -> list[Piece]:
    """Return the pieces of a part, in the order of its samples."""
    about = json.dumps(plain(part.describe()), sort_keys=True)
    pieces, start = [], 0
    for size in corpus.shard_sizes.tolist():
        for begin in range(start, start + size, PIECE):
            numbers = np.arange(begin, min(begin + PIECE, start + size))
            content = corpus.subset(numbers).fingerprint()
            key = sha256(f"{model.digest}\n{about}\n{content}".encode()).hexdigest()
            pieces.append(Piece(numbers, cache / model.digest[:16] / f"{key}.safetensors"))
        start += size
    return pieces


def embed(
    part: Part,
    model: Model,
    pieces: list[Piece],
    *,
    device: torch.device,
    workers: int,
    batch_size: int,
) -> None:
    """Compute the features of the pieces that are not kept yet; every rank calls it.

    Raises:
        UserError: samples that are not what the set says.
    """
    # As rank 0 sees it: another rank may already see what a third has just written.
    missing = comm.gather_objects([n for n, p in enumerate(pieces) if not p.path.is_file()])[0]
    if missing and comm.rank() == 0:
        total = sum(len(pieces[n].numbers) for n in missing)
        note(f"{model.name}: {part.where}: {total:,} samples to embed")
    mine = [pieces[n] for n in missing[comm.rank() :: comm.world_size()]]
    if mine:
        _compute(part, model, mine, device=device, workers=workers, batch_size=batch_size)
    comm.barrier()


@torch.inference_mode()
def _compute(
    part: Part,
    model: Model,
    pieces: list[Piece],
    *,
    device: torch.device,
    workers: int,
    batch_size: int,
) -> None:
    data = part.data(model, device=device, workers=workers)
    groups = [
        np.array_split(p.numbers, range(batch_size, len(p.numbers), batch_size)) for p in pieces
    ]
    loader = data.loader_of("test", [batch for group in groups for batch in group])
    try:
        batches = iter(loader)
        for piece, group in zip(pieces, groups, strict=True):
            rows = [_rows(part, model, next(batches).to(device)) for _ in group]
            tensors = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
            # The same samples may have other numbers in another set.
            tensors = _moved(tensors, -int(piece.numbers[0]))
            write_bytes(piece.path, save(tensors))
    finally:
        loader.close()


def _rows(part: Part, model: Model, batch: Batch) -> dict[str, Tensor]:
    """Return what is kept of a batch, without the samples that could not be read."""
    valid_B = batch.valid_B
    rows = {"sample": batch.index_B[valid_B], "bad": batch.index_B[~valid_B]}
    if batch.label_B is not None:
        rows["label"] = batch.label_B[valid_B]
    if part.targets is not None:
        rows["target"] = _targets(part, batch)[valid_B.cpu()]
    for name in part.modalities:
        inputs = getattr(batch, name)
        item_N = (
            inputs.item_N if name == "text" else torch.arange(batch.size, device=valid_B.device)
        )
        keep_N = batch.present(name) & valid_B[item_N]
        rows[f"{name}.feature"] = model.encode(name, batch)[keep_N]
        rows[f"{name}.item"] = batch.index_B[item_N][keep_N]
    return {name: tensor.cpu().contiguous() for name, tensor in rows.items()}


def _targets(part: Part, batch: Batch) -> Tensor:
    """Return 0 or 1 for each sample and class."""
    num_classes = len(part.class_names)
    target_BK = torch.zeros(batch.size, num_classes, dtype=torch.uint8)
    for row, value in enumerate(batch.fields[_TARGETS]):
        if not batch.valid_B[row] or value is None:
            continue
        try:
            if isinstance(value, bytes):
                found = np.load(io.BytesIO(value), allow_pickle=False)
                if found.shape != (num_classes,) or not np.isin(found, (0, 1)).all():
                    raise ValueError(f"is no 0 or 1 for each of {num_classes} classes")
                target_BK[row] = torch.from_numpy(found.astype(np.uint8))
            else:
                target_BK[row, class_numbers(value, part.class_names)] = 1
        except (ValueError, TypeError, EOFError, OSError) as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"{part.where}: sample {batch.keys[row]}: {part.targets} {said}"
            ) from error
    return target_BK


@dataclass(frozen=True)
class Features:
    """A model's features of a part.

    Attributes:
        sample_S: int64, numbers of the samples that could be read, ascending.
        num_bad: how many could not.
        label_S: int64, -1 where a sample has none; None where none is mapped.
        target_SK: 0 or 1 for each class; None where none is mapped.
        feature: by modality, (N, D) of unit length.
        item: by modality, (N,) the place in `sample_S` of each row's sample, ascending.
    """

    sample_S: Tensor
    num_bad: int
    label_S: Tensor | None
    target_SK: Tensor | None
    feature: Mapping[Modality, Tensor]
    item: Mapping[Modality, Tensor]

    def __len__(self) -> int:
        return len(self.sample_S)

    def labelled(self, modality: Modality) -> tuple[Tensor, Tensor]:
        """Return the features (N, D) and classes (N,) of one modality's labelled rows."""
        assert self.label_S is not None
        label_N = self.label_S[self.item[modality]]
        known_N = label_N >= 0
        return self.feature[modality][known_N], label_N[known_N]


def load_features(part: Part, pieces: list[Piece]) -> Features:
    """Return the features that `embed` has left.

    Raises:
        UserError: a file that is damaged; it has been removed, to be computed again.
    """
    found = list(_read(pieces))
    joined = {name: torch.cat([rows[name] for rows in found]) for name in found[0]}
    sample_S = joined["sample"]
    items = {name: joined[f"{name}.item"] for name in part.modalities}
    return Features(
        sample_S=sample_S,
        num_bad=len(joined["bad"]),
        label_S=joined.get("label"),
        target_SK=joined.get("target"),
        feature={name: joined[f"{name}.feature"] for name in part.modalities},
        item={name: torch.searchsorted(sample_S, item_N) for name, item_N in items.items()},
    )


def _read(pieces: list[Piece]) -> Iterator[dict[str, Tensor]]:
    """Yield what is kept of each piece."""
    for piece in pieces:
        yield _moved(read_tensors(piece.path), int(piece.numbers[0]))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return what is kept in a file.

    Raises:
        UserError: it is damaged; it has been removed, to be computed again.
    """
    try:
        found: dict[str, Tensor] = load_file(path)
        return found
    except (OSError, SafetensorError) as error:
        path.unlink(missing_ok=True)
        raise UserError(
            f"{path}: kept features are damaged and were removed; start again"
        ) from error


def _moved(rows: dict[str, Tensor], by: int) -> dict[str, Tensor]:
    """Return rows whose sample numbers count from elsewhere."""
    numbers = ("sample", "bad", "item")
    return {n: t + by if n.rpartition(".")[2] in numbers else t for n, t in rows.items()}
