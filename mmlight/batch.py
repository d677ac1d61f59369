"""Typed batches: the one thing that data pipelines, encoders and tasks share.

Shape legend, used as suffixes all over the project:

    B samples of this rank's batch      C image channels     H, W pixels
    N captions (usually B in training)  L tokens or frames   T waveform samples
    D feature width                     P modality pairs     K classes
    G boxes of the sample with most of them

Where samples have several images or sounds (`Pieces`), B of these is all of them together, but in
`present_B`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from mmlight.modality import MODALITIES, Modality

_LENGTHS = "_mmlight_lengths"
_COUNT = "_mmlight_count"


class _Movable:
    """Moves every tensor of a dataclass; Lightning and the pin-memory thread call these."""

    def map(self, fn: Any) -> Self:
        """Return a copy with what `fn` makes of every tensor."""
        changed = {}
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                changed[f.name] = fn(value)
            elif isinstance(value, _Movable):
                changed[f.name] = value.map(fn)
        return replace(self, **changed)  # type: ignore[type-var]

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor."""
        for value in vars(self).values():
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, _Movable):
                yield from value.tensors()

    def rows(self, start: int, stop: int) -> Self:
        """Return some rows of every tensor; of samples that have several pieces, all of theirs."""
        changed: dict[str, Any] = {}
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                changed[f.name] = value[start:stop]
            elif isinstance(value, _Movable):
                changed[f.name] = value.rows(start, stop)
        return replace(self, **changed)  # type: ignore[type-var]

    def to(self, device: torch.device | str, non_blocking: bool | None = None) -> Self:
        """Return a batch whose tensors are on `device`: itself, if they are.

        Args:
            device: where to.
            non_blocking: let the host go on while page-locked memory is copied; None does that on
                the way to an accelerator. (On the way back, nobody would wait for the values.)
        """
        device = torch.device(device)
        if all(tensor.device == device for tensor in self.tensors()):
            return self
        if non_blocking is None:
            non_blocking = device.type != "cpu"
        return self.map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return a copy whose tensors are in page-locked memory."""
        return self.map(lambda t: t.pin_memory())


@dataclass(frozen=True)
class Pieces(_Movable):
    """Which images or sounds are of one sample: frames of a video, windows of a long clip.

    Attributes:
        item_N: int64, the row of the batch that each belongs to, in order; every row has one.
        weight_N: float32, how much each counts in a mean.
        most: number of pieces of the sample with most of them.
    """

    item_N: Tensor
    weight_N: Tensor
    most: int

    @classmethod
    def of(cls, counts: Sequence[int], weights: Sequence[float] | None = None) -> "Pieces | None":
        """Return the pieces of samples that have so many; None where none has several.

        Args:
            counts: of each sample, 1 or more.
            weights: of each piece; None is even.
        """
        if max(counts, default=1) == 1:
            return None
        item_N = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        weight_N = torch.ones(len(item_N)) if weights is None else torch.tensor(weights).float()
        return cls(item_N, weight_N, max(counts))

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Return where the pieces of some rows of the batch begin and end."""
        ends = torch.tensor([start, stop], device=self.item_N.device)
        first, last = torch.searchsorted(self.item_N, ends).tolist()
        return first, last

    def first_rows(self, size: int) -> Tensor:
        """Return the number of the first piece of each of `size` samples, (B,)."""
        return torch.searchsorted(self.item_N, torch.arange(size, device=self.item_N.device))

    def spread(self, value_N: Tensor, size: int) -> Tensor:
        """Return what there is of each piece, (N, ...), by sample, (B, `most`, ...), with zeros."""
        place_N = torch.arange(len(self.item_N), device=self.item_N.device)
        place_N = place_N - self.first_rows(size)[self.item_N]
        spread = value_N.new_zeros((size, self.most, *value_N.shape[1:]))
        return spread.index_put((self.item_N, place_N), value_N)


class _InPieces(_Movable):
    """Images or sounds, of which a sample may have several."""

    present_B: Tensor
    pieces: Pieces | None

    @property
    def size(self) -> int:
        """Number of samples, B."""
        return self.present_B.shape[0]

    def rows(self, start: int, stop: int) -> Self:
        """Return some samples, with all of their pieces."""
        if self.pieces is None:
            return super().rows(start, stop)
        first, last = self.pieces.span(start, stop)
        part = super().rows(first, last)
        assert part.pieces is not None
        pieces = replace(part.pieces, item_N=part.pieces.item_N - start)
        return replace(part, present_B=self.present_B[start:stop], pieces=pieces)  # type: ignore[type-var]

    def firsts(self) -> Self:
        """Return the first piece of each sample alone."""
        if self.pieces is None:
            return self
        first_B = self.pieces.first_rows(self.size)
        given_N = self.pieces.item_N  # stands for `present_B`, of which there are fewer
        rest = replace(self, pieces=None, present_B=given_N)  # type: ignore[type-var]
        firsts = rest.map(lambda rows: rows[first_B])
        return replace(firsts, present_B=self.present_B)  # type: ignore[type-var]


# What is done to an image as it is stored, by its orientation: swap rows and columns, then mirror
# left to right, then top to bottom.
TURNS: dict[int, tuple[bool, bool, bool]] = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


@dataclass(frozen=True)
class View(_Movable):
    """Which part of the pixels is image rather than padding, and where it lies in the original.

    Attributes:
        area_B2: int64, height and width of the real pixels; the rest, right and below, is padding.
        original_B2: int64, height and width of the image as stored.
        to_original_B4: float32 (scale_x, scale_y, offset_x, offset_y), in pixels of the original
            upright: ``x_original = x * scale_x + offset_x``; a scale below 0 is a flip.
        orientation_B: int64, how the image as stored is turned to be upright (EXIF, 1 to 8); None
            where all are stored upright.
    """

    area_B2: Tensor
    original_B2: Tensor
    to_original_B4: Tensor
    orientation_B: Tensor | None = None

    def restore(self, xyxy_BG4: Tensor) -> Tensor:
        """Return boxes (B, G, 4) in pixels of the images as stored, clipped to them, float32."""
        scale_B14 = self.to_original_B4[:, None, [0, 1, 0, 1]]
        ends_BG4 = xyxy_BG4.float() * scale_B14 + self.to_original_B4[:, None, [2, 3, 2, 3]]
        if self.orientation_B is not None:
            ends_BG4 = self._as_stored(ends_BG4, self.orientation_B)
        # A flip swaps the ends.
        low_BG2 = torch.minimum(ends_BG4[..., :2], ends_BG4[..., 2:])
        high_BG2 = torch.maximum(ends_BG4[..., :2], ends_BG4[..., 2:])
        limit_B14 = self.original_B2[:, None, [1, 0, 1, 0]].to(ends_BG4.dtype)
        return torch.cat([low_BG2, high_BG2], -1).clamp(min=0).minimum(limit_B14)

    def _as_stored(self, ends_BG4: Tensor, orientation_B: Tensor) -> Tensor:
        turns = torch.tensor([TURNS[1], *TURNS.values()], device=ends_BG4.device)  # by number
        swap_B, mirror_B2 = turns[orientation_B].bool().split([1, 2], 1)
        size_B2 = self.original_B2.flip(1)  # width and height as stored
        size_B2 = torch.where(swap_B, size_B2.flip(1), size_B2)
        size_B14 = size_B2.repeat(1, 2)[:, None].to(ends_BG4.dtype)
        mirror_B14 = mirror_B2.repeat(1, 2)[:, None]
        ends_BG4 = torch.where(mirror_B14, size_B14 - ends_BG4, ends_BG4)
        return torch.where(swap_B[:, None], ends_BG4[..., [1, 0, 3, 2]], ends_BG4)


@dataclass(frozen=True)
class Images(_InPieces):
    """Pixels as decoded; encoders normalise on the device.

    Attributes:
        pixels_BCHW: uint8, all of one size. Rows of missing images are zero.
        present_B: bool, False where the sample has no image.
        view: where the pixels come from; None unless images are fitted (see `ImageSettings`).
        pieces: which are frames of one sample; None where each image is a sample's only one.
    """

    pixels_BCHW: Tensor
    present_B: Tensor
    view: View | None = None
    pieces: Pieces | None = None

    def viewed(self) -> View:
        """Return `view`; pixels without one are images of their own."""
        if self.view is not None:
            return self.view
        size, device = len(self.pixels_BCHW), self.pixels_BCHW.device
        area_B2 = torch.tensor(self.pixels_BCHW.shape[2:], device=device).expand(size, 2)
        whole_B4 = torch.tensor([1.0, 1.0, 0.0, 0.0], device=device).expand(size, 4)
        return View(area_B2, area_B2, whole_B4)


@dataclass(frozen=True)
class Boxes(_Movable):
    """Objects in the images, padded to the sample with most of them.

    Attributes:
        xyxy_BG4: float32 corners (left, top, right, bottom) in pixels of `Images.pixels_BCHW`.
        label_BG: int64 class numbers; 0 where padded.
        mask_BG: bool, True for real boxes.
        present_B: bool, False where nobody said which objects the sample has (a sample without
            objects is present).
        annotated: the real boxes of each sample as they were annotated: (G, 4) float64 corners in
            pixels of the image as stored, not clipped; empty where that is not known. Scores are of
            these: what goes through the pixels of training and back is off by rounding.
    """

    xyxy_BG4: Tensor
    label_BG: Tensor
    mask_BG: Tensor
    present_B: Tensor
    annotated: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class Text(_Movable):
    """Token ids padded on the right to the longest caption of this batch.

    Attributes:
        token_ids_NL: int64; padding positions hold the tokenizer's padding id.
        mask_NL: bool, True for real tokens. The last real token of a CLIP-like text is end-of-text.
        present_N: bool, False where the sample has no text (such a row has one masked-in token).
        item_N: int64, the row of the batch each caption belongs to, in order. In training every
            sample has the same number of captions, one unless the data's text settings say
            otherwise; in evaluation a sample has all of its captions.
        caption_id_N: int64, a hash of the caption's text: equal captions, equal ids.
        offset_NL2: int64, the first character of its caption that each token stands for and the
            one after its last; equal for tokens that stand for none (start, end, padding). None
            unless the data's text settings ask for offsets.
        target_NL: int64, what the model is to say at each token where that is not the token itself:
            what stood there before it was masked. None otherwise.
        counted_NL: bool, tokens whose loss counts; None counts all real tokens.
        sample_NL: int64, the row of the batch that each token belongs to, -1 for padding, where
            texts are packed: several share a row, in which none sees another, and a long one goes
            on in the next row. `item_N` is then that of a row's first token. None otherwise.
    """

    token_ids_NL: Tensor
    mask_NL: Tensor
    present_N: Tensor
    item_N: Tensor
    caption_id_N: Tensor
    offset_NL2: Tensor | None = None
    target_NL: Tensor | None = None
    counted_NL: Tensor | None = None
    sample_NL: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of captions, N."""
        return self.present_N.shape[0]

    def samples_of_tokens(self) -> Tensor:
        """Return the row of the batch that each token is of (N, L); -1 of padding if packed."""
        if self.sample_NL is not None:
            return self.sample_NL
        return self.item_N[:, None].expand_as(self.mask_NL)

    def first_rows(self, size: int) -> Tensor:
        """Return the number of the first caption of each of `size` samples, (B,).

        Every sample has at least one: one without a text has a row that is not present.
        """
        rows_N = torch.arange(self.item_N.shape[0], device=self.item_N.device)
        return rows_N.new_full((size,), rows_N.shape[0]).scatter_reduce(
            0, self.item_N, rows_N, reduce="amin"
        )

    def lengths(self) -> list[int] | None:
        """Return the number of real tokens of each caption; None where a mask has holes.

        Of tensors that `to` brought to an accelerator it is known without waiting for it.
        """
        known: list[int] | None = getattr(self.mask_NL, _LENGTHS, None)
        if known is None:
            # Not prefixes count as longer than the batch. One transfer for all.
            length_N = self.mask_NL.sum(1)
            holes_N = (self.mask_NL[:, 1:] & ~self.mask_NL[:, :-1]).any(1) | (length_N == 0)
            known = (length_N + holes_N * (self.mask_NL.shape[1] + 1)).tolist()
        return known if max(known, default=0) <= self.mask_NL.shape[1] else None

    def num_counted(self) -> int | None:
        """Return how many tokens `counted_NL` counts, if it is known without waiting; else None.

        It is of tensors on the CPU and of those that `to` brought from there; not of fake ones.
        """
        if self.counted_NL is None:
            return None
        known: int | None = getattr(self.counted_NL, _COUNT, None)
        if known is None and type(self.counted_NL) is Tensor and self.counted_NL.is_cpu:
            known = int(self.counted_NL.sum())
        return known

    def map(self, fn: Any) -> Self:
        """Return a copy with what `fn` makes of every tensor; lengths stay known on a device."""
        moved = super().map(fn)
        if self.mask_NL.device.type == "cpu" and moved.mask_NL.device.type not in ("cpu", "meta"):
            moved.note_lengths(self.lengths())
            if moved.counted_NL is not None and (count := self.num_counted()) is not None:
                setattr(moved.counted_NL, _COUNT, count)
        return moved

    def note_lengths(self, known: list[int] | None) -> None:
        """Have `lengths` return this without looking at the mask's values.

        Args:
            known: what `lengths` returns while the values are at hand.
        """
        # It hangs on this very tensor, so it cannot outlive a change of the captions.
        setattr(self.mask_NL, _LENGTHS, known or [self.mask_NL.shape[1] + 1])


@dataclass(frozen=True)
class Audio(_InPieces):
    """Mono waveforms at one sampling rate, padded on the right with zeros.

    Attributes:
        waveform_BT: float32 in [-1, 1].
        length_B: int64, real samples of each row (0 where missing).
        present_B: bool, False where the sample has no audio.
        pieces: which are windows of one sample; None where each sound is a sample's only one.
    """

    waveform_BT: Tensor
    length_B: Tensor
    present_B: Tensor
    pieces: Pieces | None = None


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be read or decoded, and was replaced by another or left out.

    Attributes:
        shard: path of the tar file.
        key: the sample's key in it.
        member: the extension of the member at fault.
        reason: what the decoder said, one line.
        replaced_by: ``shard-name/key`` of the sample that took its place.
        index: the sample's number in its data set.
        missing: whether nothing is wrong with it, but it has nothing that the model reads.
    """

    shard: str
    key: str
    member: str
    reason: str
    replaced_by: str
    index: int = -1
    missing: bool = False


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
        boxes: objects in the images, or None where no boxes are mapped.
        captions: raw captions in the order of ``text.item_N``; empty without text.
        answer: what is to be said to a sample's other modalities, the answer to a question in
            `text`, say; tokens as in `text`, or None where no answer is mapped.
        answers: raw answers in the order of ``answer.item_N``.
        rejected: an answer that a person liked less than `answer`; None where none is mapped.
        fields: further members as they were mapped, one list entry per sample.
        bad: samples of this batch that had to be replaced; the data module counts them.
        sources: the name of the source that each sample is from; empty where there is only one.
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
    boxes: Boxes | None = None
    captions: list[str] = field(default_factory=list)
    answer: Text | None = None
    answers: list[str] = field(default_factory=list)
    rejected: Text | None = None
    fields: dict[str, list[Any]] = field(default_factory=dict)
    bad: tuple[BadSample, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of samples, B."""
        # Not len(), here and in what models do: an export would take it as a constant.
        return self.index_B.shape[0]

    def modalities(self) -> Iterator[Modality]:
        """Yield the modalities this batch carries, in the fixed order image, text, audio."""
        for name in MODALITIES:
            if getattr(self, name) is not None:
                yield name

    def with_first_text(self) -> "Batch":
        """Return the batch with the first caption of each sample; itself where it has no more."""
        text = self.text
        if text is None or text.item_N.shape[0] == self.size:
            return self
        first_B = text.first_rows(self.size)
        one_each = replace(
            text.map(lambda rows: rows[first_B]),
            item_N=torch.arange(self.size, device=text.item_N.device),
        )
        captions = [self.captions[row] for row in first_B.tolist()]
        return replace(self, text=one_each, captions=captions)

    def with_first_pieces(self) -> "Batch":
        """Return the batch with the first image and sound of each sample."""
        image = self.image.firsts() if self.image is not None else None
        audio = self.audio.firsts() if self.audio is not None else None
        return replace(self, image=image, audio=audio)

    def present(self, modality: Modality) -> Tensor:
        """Return the bool mask of rows that have `modality` ((B,), for text (N,))."""
        part = getattr(self, modality)
        if part is None:
            raise KeyError(modality)
        return part.present_N if isinstance(part, Text) else part.present_B
