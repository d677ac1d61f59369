"""Pairs of modalities: which are trained, which samples count, and which are positives.

Shapes as in `mmlight.batch`: B samples of this rank, G samples of all ranks (G = W * B), P pairs,
M modalities, D joint width. Rows of a similarity matrix are this rank's samples, columns are all.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmlight import comm
from mmlight.batch import Batch
from mmlight.errors import UserError, nearest
from mmlight.modality import MODALITIES, Modality

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

    @property
    def has_text(self) -> bool:
        """Whether one of the two is text, of which a sample may have several."""
        return "text" in (self.first, self.second)


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
class Samples:
    """The samples of one pair: which count, and which are one another's positives.

    Attributes:
        valid_G: bool, which samples have both modalities.
        group_G: int64 number below 2 * G shared by samples that are one another's positives, -1
            where not valid; None where each sample is only its own.
        start: this rank's first sample among the G.
        size: samples of this rank, B.
    """

    valid_G: Tensor
    group_G: Tensor | None
    start: int
    size: int

    def local(self, x_G: Tensor) -> Tensor:
        """Return this rank's rows of something that is kept for all samples."""
        return x_G[self.start : self.start + self.size]

    def num_positives(self) -> Tensor:
        """Return how many valid positives each of this rank's samples has, itself included (B)."""
        if self.group_G is None:
            return torch.ones_like(self.local(self.valid_G), dtype=torch.int64)
        group_G = self.group_G.clamp(min=0)
        members_X = torch.zeros_like(group_G).repeat(2)
        members_X.index_add_(0, group_G, self.valid_G.long())
        return members_X[self.local(group_G)].clamp(min=1)


@dataclass(frozen=True)
class Presence:
    """Which samples of all ranks have which modality, and which belong together.

    Attributes:
        present: by modality, bool (G,), False also for rows that only fill up a batch.
        group_G: int64 number below 2 * G shared by samples that are one another's positives; None
            where each sample is only its own.
        start: this rank's first sample among the G.
        size: samples of this rank, B.
    """

    present: dict[Modality, Tensor]
    group_G: Tensor | None
    start: int
    size: int

    def samples(self, pair: Pair) -> Samples:
        """Return what counts for `pair`."""
        valid_G = self.present[pair.first] & self.present[pair.second]
        group_G = None if self.group_G is None else self.group_G.masked_fill(~valid_G, -1)
        return Samples(valid_G=valid_G, group_G=group_G, start=self.start, size=self.size)


def _number_groups(group_G: Tensor, known_G: Tensor) -> Tensor:
    """Return numbers below 2 * G (int64), equal where the groups are equal and known."""
    sorted_G, order_G = group_G.sort()
    step_G = torch.zeros_like(sorted_G)
    step_G[1:] = sorted_G[1:] != sorted_G[:-1]
    number_G = torch.empty_like(sorted_G).scatter_(0, order_G, step_G.cumsum(0))
    size = len(group_G)
    return torch.where(known_G, number_G, torch.arange(size, 2 * size, device=group_G.device))


def captions_each(batch: Batch) -> int:
    """Return how many captions each sample of a training batch has; 1 without text."""
    if batch.text is None:
        return 1
    each, rest = divmod(batch.text.present_N.shape[0], batch.size)
    assert not rest, "an objective takes the same number of captions for every sample"
    return each


def gather_rows(
    batch: Batch,
    *,
    modalities: tuple[Modality, ...],
    positives: Positives,
    alone: bool = False,
    each: int = 1,
) -> Presence:
    """Collect masks and groups of all ranks, in one message; every rank calls it.

    Args:
        batch: with one caption per sample, or `each`.
        modalities: of the pairs; those with text are not to be mixed with others where samples
            have several captions.
        positives: what decides which samples belong together.
        alone: keep to this rank's samples and send nothing.
        each: captions of a sample. Rows are captions then, and those of a sample belong together.

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
    if each > 1 and positives == "caption":
        raise UserError(
            "positives: 'caption' and data.text.captions_per_sample above 1 do not go together; "
            "use 'sample' or 'label'"
        )
    size = batch.size * each
    own_B = torch.arange(batch.size, device=batch.valid_B.device)
    own_B = own_B + (0 if alone else comm.rank() * batch.size)

    def wide(x: Tensor) -> Tensor:
        return x if len(x) == size else x.repeat_interleave(each, 0)

    columns = [(wide(batch.present(m)) & wide(batch.valid_B)).long() for m in modalities]
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
        known_B = batch.label_B >= 0
        if each > 1:  # the captions of a sample without a label belong together too
            columns += [
                torch.ones_like(columns[0]),
                wide(torch.where(known_B, batch.label_B, -1 - own_B)),
            ]
        else:
            columns += [known_B.long(), batch.label_B]
    elif each > 1:
        columns += [torch.ones_like(columns[0]), wide(own_B)]
    assert all(len(c) == size for c in columns), "rows are samples, or all of their captions"
    table_BC = torch.stack(columns, dim=1)
    table_GC = table_BC if alone else comm.gather(table_BC)
    grouped = positives != "sample" or each > 1
    return Presence(
        present={m: table_GC[:, i].bool() for i, m in enumerate(modalities)},
        group_G=_number_groups(table_GC[:, -1], table_GC[:, -2].bool()) if grouped else None,
        start=0 if alone else comm.rank() * size,
        size=size,
    )
