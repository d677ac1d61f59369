"""Pairs of modalities: which are trained, which samples count, and which are positives.

Shapes as in `mmlight.batch`: B samples of this rank, G samples of all ranks (G = W * B), P pairs,
M modalities, D joint width. Rows of a similarity matrix are this rank's samples, columns are all.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from mmlight import comm
from mmlight.batch import MODALITIES, Batch, Modality
from mmlight.errors import UserError, nearest

Positives = Literal["sample", "caption", "label"]


@dataclass(frozen=True)
class Pair:
    """Two modalities, in the order image, text, audio, and the weight of their loss."""

    first: Modality
    second: Modality
    weight: float

    @property
    def name(self) -> str:
        """``image-text``, as in settings and logs."""
        return f"{self.first}-{self.second}"


def parse_pairs(
    pairs: Mapping[str, float] | None, *, available: tuple[Modality, ...]
) -> tuple[Pair, ...]:
    """Return the pairs in a fixed order, whatever order the settings name them in.

    The order decides which temperature is whose in a checkpoint, so it must not depend on YAML.

    Args:
        pairs: weights by name, such as ``{"image-text": 1.0}``; None is every pair of `available`
            with weight 1.
        available: the modalities that have a tower.

    Raises:
        UserError: a malformed or repeated name, an unknown or unavailable modality, a weight that
            is not positive, or no pair at all.
    """
    if pairs is None:
        known = [m for m in MODALITIES if m in available]
        pairs = {f"{a}-{b}": 1.0 for i, a in enumerate(known) for b in known[i + 1 :]}
    if not pairs:
        raise UserError(
            f"pairs: no pair of modalities to train on (available: {_listed(available)}); "
            "two modalities are needed, such as image-text"
        )
    parsed: dict[str, Pair] = {}
    for name, weight in pairs.items():
        pair = _parse_pair(name, weight, available=available)
        if pair.name in parsed:
            raise UserError(f"pairs: '{name}' names the pair {pair.name} twice; keep one of them")
        parsed[pair.name] = pair
    order = {modality: i for i, modality in enumerate(MODALITIES)}
    return tuple(sorted(parsed.values(), key=lambda p: (order[p.first], order[p.second])))


def _parse_pair(name: str, weight: float, *, available: tuple[Modality, ...]) -> Pair:
    parts = name.split("-")
    if len(parts) != 2:
        raise UserError(f"pairs: '{name}' is not a pair of modalities such as 'image-text'")
    for part in parts:
        if part not in MODALITIES:
            raise UserError(
                f"pairs: unknown modality '{part}' in '{name}'{nearest(part, MODALITIES)}; "
                f"known are {_listed(MODALITIES)}"
            )
        if part not in available:
            raise UserError(
                f"pairs: '{name}' needs {part}, which has no tower; available are "
                f"{_listed(available)}"
            )
    if parts[0] == parts[1]:
        raise UserError(f"pairs: '{name}' pairs {parts[0]} with itself; name two modalities")
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise UserError(f"pairs: the weight of '{name}' is {weight!r}; it must be a number")
    if not (weight > 0 and math.isfinite(weight)):
        raise UserError(
            f"pairs: the weight of '{name}' is {weight}; it must be positive and finite "
            "(leave the pair out to switch it off)"
        )
    first, second = (m for m in MODALITIES if m in parts)
    return Pair(first=first, second=second, weight=float(weight))


def _listed(modalities: tuple[Modality, ...]) -> str:
    return ", ".join(modalities) or "none"


def used_modalities(pairs: tuple[Pair, ...]) -> tuple[Modality, ...]:
    """Return the modalities of `pairs`, each once, in the order image, text, audio."""
    return tuple(m for m in MODALITIES if any(m in (p.first, p.second) for p in pairs))


@dataclass(frozen=True)
class Rows:
    """Which samples of all ranks have which modality, and which belong together.

    Attributes:
        present: by modality, bool (G,), False also for rows that only fill up a batch.
        group_G: int64 number shared by samples that are one another's positives; None where each
            sample is only its own.
        grouped_G: bool, False for samples whose `group_G` is unknown: only their own positives.
        start: this rank's first sample among the G.
        size: samples of this rank, B.
    """

    present: dict[Modality, Tensor]
    group_G: Tensor | None
    grouped_G: Tensor | None
    start: int
    size: int

    def valid_G(self, pair: Pair) -> Tensor:
        """Return which samples have both modalities of `pair`."""
        return self.present[pair.first] & self.present[pair.second]

    def local(self, x_G: Tensor) -> Tensor:
        """Return this rank's rows of something that is kept for all samples."""
        return x_G[self.start : self.start + self.size]

    @cached_property
    def self_B(self) -> Tensor:
        """The column of each row's own sample."""
        device = next(iter(self.present.values())).device
        return torch.arange(self.start, self.start + self.size, device=device)

    @cached_property
    def positive_BG(self) -> Tensor:
        """Which columns are positives of each row (bool); the own column always is one."""
        if self.group_G is None or self.grouped_G is None:
            columns_G = torch.arange(self.num_columns, device=self.self_B.device)
            return self.self_B[:, None] == columns_G[None, :]
        same_BG = self.local(self.group_G)[:, None] == self.group_G[None, :]
        same_BG &= self.local(self.grouped_G)[:, None] & self.grouped_G[None, :]
        return same_BG.scatter_(1, self.self_B[:, None], True)

    @property
    def num_columns(self) -> int:
        """Samples of all ranks, G."""
        return len(next(iter(self.present.values())))


def gather_rows(batch: Batch, *, modalities: tuple[Modality, ...], positives: Positives) -> Rows:
    """Collect masks and groups of all ranks, in one message; every rank calls it.

    Raises:
        UserError: the batch lacks a modality, or what `positives` compares.
    """
    for modality in modalities:
        if getattr(batch, modality) is None:
            raise UserError(
                f"the objective needs {modality}, but the data gives only "
                f"{_listed(tuple(batch.modalities()))}; map {modality} in the data settings or "
                "leave its pairs out"
            )
    columns = [(batch.present(m) & batch.valid_B).long() for m in modalities]
    if positives == "caption":
        if batch.text is None:
            raise UserError("positives: 'caption' compares captions, but the data has no text")
        columns += [batch.text.present_N.long(), batch.text.caption_id_N]
    elif positives == "label":
        if batch.label_B is None:
            raise UserError(
                "positives: 'label' compares labels, but the data maps none; map a label in the "
                "data settings or use 'sample' or 'caption'"
            )
        columns += [(batch.label_B >= 0).long(), batch.label_B]
    assert all(len(c) == batch.size for c in columns), "an objective takes one caption per sample"
    table_GC = comm.gather(torch.stack(columns, dim=1))
    grouped = positives != "sample"
    return Rows(
        present={m: table_GC[:, i].bool() for i, m in enumerate(modalities)},
        group_G=table_GC[:, -1] if grouped else None,
        grouped_G=table_GC[:, -2].bool() if grouped else None,
        start=comm.rank() * batch.size,
        size=batch.size,
    )
