"""Typed batches: the one thing that data pipelines, encoders and tasks share.

Shape legend, used as suffixes all over the project:

    B samples of this rank's batch      C image channels     H, W pixels
    N captions (N == B in training)     L tokens or frames   T waveform samples
    D feature width                     P modality pairs     K classes
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

Modality = Literal["image", "text", "audio"]
MODALITIES: tuple[Modality, ...] = ("image", "text", "audio")


class _Movable:
    """Moves every tensor of a dataclass; Lightning and the pin-memory thread call these."""

    def _map(self, fn: Any) -> Self:
        changed = {}
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                changed[f.name] = fn(value)
            elif isinstance(value, _Movable):
                changed[f.name] = value._map(fn)
        return replace(self, **changed)  # type: ignore[type-var]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return a copy whose tensors are on `device`."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return a copy whose tensors are in page-locked memory."""
        return self._map(lambda t: t.pin_memory())


@dataclass(frozen=True)
class Images(_Movable):
    """Pixels as decoded; encoders normalise on the device.

    Attributes:
        pixels_BCHW: uint8, all of one size. Rows of missing images are zero.
        present_B: bool, False where the sample has no image.
    """

    pixels_BCHW: Tensor
    present_B: Tensor


@dataclass(frozen=True)
class Text(_Movable):
    """Token ids padded on the right to the longest caption of this batch.

    Attributes:
        token_ids_NL: int64; padding positions hold the tokenizer's padding id.
        mask_NL: bool, True for real tokens. The last real token of a CLIP-like text is end-of-text.
        present_N: bool, False where the sample has no text (such a row has one masked-in token).
        item_N: int64, the row of the batch each caption belongs to. In training there is one
            caption per sample and this is ``arange(B)``; in evaluation a sample has all of its
            captions.
        caption_id_N: int64, a hash of the caption's text: equal captions, equal ids.
    """

    token_ids_NL: Tensor
    mask_NL: Tensor
    present_N: Tensor
    item_N: Tensor
    caption_id_N: Tensor


@dataclass(frozen=True)
class Audio(_Movable):
    """Mono waveforms at one sampling rate, padded on the right with zeros.

    Attributes:
        waveform_BT: float32 in [-1, 1].
        length_B: int64, real samples of each row (0 where missing).
        present_B: bool, False where the sample has no audio.
    """

    waveform_BT: Tensor
    length_B: Tensor
    present_B: Tensor


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be read or decoded, and was replaced by another.

    Attributes:
        shard: path of the tar file.
        key: the sample's key in it.
        member: the extension of the member at fault.
        reason: what the decoder said, one line.
        replaced_by: ``shard-name/key`` of the sample that took its place.
    """

    shard: str
    key: str
    member: str
    reason: str
    replaced_by: str


@dataclass(frozen=True)
class Batch(_Movable):
    """What one rank gets in one step.

    Attributes:
        index_B: int64, the sample's number in its data set (its place in the index, stable).
        keys: ``shard-name/sample-key`` of each sample.
        epoch: the epoch this batch belongs to.
        step: the number of this batch within its epoch.
        valid_B: bool, False for rows that only fill up the last evaluation batch of a rank; they
            repeat another sample and must not be counted.
        image: pixels, or None where the data has no images.
        text: tokens, or None.
        audio: waveforms, or None.
        label_B: int64 class numbers, -1 where a sample has none; None where no label is mapped.
        captions: raw captions in the order of ``text.item_N``; empty without text.
        fields: further members as they were mapped, one list entry per sample.
        bad: samples of this batch that had to be replaced; the data module counts them.
    """

    index_B: Tensor
    keys: list[str]
    epoch: int
    step: int
    valid_B: Tensor
    image: Images | None = None
    text: Text | None = None
    audio: Audio | None = None
    label_B: Tensor | None = None
    captions: list[str] = field(default_factory=list)
    fields: dict[str, list[Any]] = field(default_factory=dict)
    bad: tuple[BadSample, ...] = ()

    @property
    def size(self) -> int:
        """Number of samples, B."""
        return len(self.index_B)

    def modalities(self) -> Iterator[Modality]:
        """Yield the modalities this batch carries, in the fixed order image, text, audio."""
        for name in MODALITIES:
            if getattr(self, name) is not None:
                yield name

    def present(self, modality: Modality) -> Tensor:
        """Return the bool mask of rows that have `modality` ((B,), for text (N,))."""
        part = getattr(self, modality)
        if part is None:
            raise KeyError(modality)
        return part.present_N if isinstance(part, Text) else part.present_B
