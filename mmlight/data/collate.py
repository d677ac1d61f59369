"""Joins decoded samples into one `Batch`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mmlight.batch import Audio, BadSample, Batch, Boxes, Images, Pieces, Text, View
from mmlight.data.collate_documents import caption_ids, join_documents
from mmlight.data.decode.draw import Draws
from mmlight.data.decode.image import ImageSettings
from mmlight.data.sample import Sample
from mmlight.data.text import TextSettings
from mmlight.modality import Modality


@dataclass(frozen=True)
class Layout:
    """What every batch of a data set holds, whether or not its samples have it.

    Attributes:
        modalities: the modalities.
        labels: whether there are labels.
        fields: names of further fields.
        image: settings, for the size of the pixels.
        text: settings, for the tokenizer.
        boxes: whether there are boxes.
        answers: whether there are answers.
        rejected: whether there are rejected ones.
    """

    modalities: tuple[Modality, ...]
    labels: bool
    fields: tuple[str, ...]
    image: ImageSettings | None
    text: TextSettings | None
    boxes: bool = False
    answers: bool = False
    rejected: bool = False


def collate(
    samples: Sequence[Sample],
    layout: Layout,
    *,
    epoch: int = 0,
    step: int = 0,
    bad: Sequence[BadSample] = (),
    draws: Callable[..., Draws] | None = None,
) -> Batch:
    """Join B samples; missing modalities become zeros and are marked as not present.

    Args:
        samples: the samples.
        layout: what a batch holds.
        epoch: see `Batch`.
        step: see `Batch`.
        bad: see `Batch`.
        draws: in training, the random numbers of a purpose and a sample in this epoch.
    """
    text, captions = None, list[str]()
    if "text" in layout.modalities:
        assert layout.text is not None
        text, captions = _join_captions(samples, layout.text, draws=draws)
    answer, answers, rejected = None, list[str](), None
    if layout.answers:
        assert layout.text is not None
        answer, answers = _join_text([sample.answers for sample in samples], layout.text)
    if layout.rejected:
        assert layout.text is not None
        rejected, _ = _join_text([sample.rejected for sample in samples], layout.text)
    image = None
    if "image" in layout.modalities:
        assert layout.image is not None
        image = _join_images(samples, layout.image)
    return Batch(
        index_B=torch.tensor([sample.index for sample in samples]),
        keys=[sample.key for sample in samples],
        epoch=epoch,
        step=step,
        valid_B=torch.tensor([sample.valid for sample in samples]),
        image=image,
        text=text,
        audio=_join_audio(samples) if "audio" in layout.modalities else None,
        label_B=torch.tensor([sample.label for sample in samples]) if layout.labels else None,
        boxes=_join_boxes(samples) if layout.boxes else None,
        captions=captions,
        answer=answer,
        answers=answers,
        rejected=rejected,
        fields={name: [s.fields.get(name) for s in samples] for name in layout.fields},
        bad=tuple(bad),
    )


def _join_captions(
    samples: Sequence[Sample], settings: TextSettings, *, draws: Callable[..., Draws] | None
) -> tuple[Text, list[str]]:
    """Join the captions of samples; the second is the caption of each row."""
    if settings.documents != "cut" or settings.masking is not None:
        return join_documents(samples, settings, draws=draws)
    blank = [sample.blank_captions for sample in samples]
    text, captions = _join_text([sample.captions for sample in samples], settings, blank=blank)
    if all(not s.uncorrupted or s.uncorrupted == s.captions for s in samples):
        return text, captions
    # Ids of uncorrupted captions: those that say the same stay equal under typing mistakes.
    uncorrupted = [
        caption
        for sample, count in zip(samples, blank, strict=True)
        for caption in sample.uncorrupted or sample.captions or [""] * count
    ]
    return replace(text, caption_id_N=caption_ids(uncorrupted)), captions


def _join_text(
    texts: Sequence[Sequence[str]], settings: TextSettings, *, blank: Sequence[int] = ()
) -> tuple[Text, list[str]]:
    """Join the texts of each sample; one that has none gets `blank` rows that are not present."""
    counts = blank or [1] * len(texts)
    rows = [
        (row, text)
        for row, of_sample in enumerate(texts)
        for text in of_sample or [""] * counts[row]
    ]
    raw = [text for _, text in rows]
    present_N = torch.tensor([bool(texts[row]) for row, _ in rows])
    # At once: 26,000 captions per CPU-second, one by one 7,000.
    encoding = settings.known_tokenizer.encode_batch(
        raw, max_tokens=settings.most_tokens, offsets=settings.offsets
    )
    token_ids_NL: Tensor = torch.from_numpy(encoding.ids_NL)
    mask_NL: Tensor = torch.from_numpy(encoding.mask_NL)
    # a row without text has one masked-in padding token: encoders divide by the number of tokens
    token_ids_NL[~present_N] = settings.known_tokenizer.pad_id
    mask_NL[~present_N] = False
    mask_NL[~present_N, 0] = True
    text = Text(
        token_ids_NL=token_ids_NL,
        mask_NL=mask_NL,
        present_N=present_N,
        item_N=torch.tensor([row for row, _ in rows]),
        caption_id_N=caption_ids(raw),
        offset_NL2=None if encoding.offsets_NL2 is None else torch.from_numpy(encoding.offsets_NL2),
    )
    return text, raw


def _join_images(samples: Sequence[Sample], settings: ImageSettings) -> Images:
    height, width = _canvas(samples, settings)
    rows: list[Tensor | None] = []
    for sample in samples:
        rows += sample.pixels or [None]
    # One uint8 tensor for all: it crosses from a worker in 9 ms, 64 single ones take 32.
    pixels_BCHW = torch.zeros((len(rows), settings.num_channels, height, width), dtype=torch.uint8)
    for row, pixels_CHW in enumerate(rows):
        if pixels_CHW is not None:
            high, wide = pixels_CHW.shape[1:]
            pixels_BCHW[row, :, :high, :wide] = pixels_CHW
    return Images(
        pixels_BCHW,
        torch.tensor([bool(sample.pixels) for sample in samples]),
        view=_join_views(samples, (height, width)) if settings.fits else None,
        pieces=Pieces.of([max(1, len(sample.pixels)) for sample in samples]),
    )


# Feature pyramids halve the picture five times.
_MULTIPLE = 32


def _canvas(samples: Sequence[Sample], settings: ImageSettings) -> tuple[int, int]:
    if not settings.fits:
        return settings.side, settings.side
    height = width = settings.side
    if settings.pad_to == "batch":
        shapes = [pixels_CHW.shape for sample in samples for pixels_CHW in sample.pixels]
        height = max((shape[1] for shape in shapes), default=1)
        width = max((shape[2] for shape in shapes), default=1)
    return -(-height // _MULTIPLE) * _MULTIPLE, -(-width // _MULTIPLE) * _MULTIPLE


def _join_views(samples: Sequence[Sample], canvas: tuple[int, int]) -> View:
    # A missing image counts as real throughout: attention over nothing is not a number.
    area, original, affine, turns = [], [], [], []
    for sample in samples:
        fitted = sample.fitted
        area.append(tuple(sample.pixels[0].shape[1:]) if sample.pixels else canvas)
        original.append(area[-1] if fitted is None else fitted.original)
        affine.append((1.0, 1.0, 0.0, 0.0) if fitted is None else fitted.to_original)
        turns.append(1 if fitted is None else fitted.orientation)
    return View(*map(torch.tensor, (area, original, affine, turns)))


def _join_boxes(samples: Sequence[Sample]) -> Boxes:
    sets = [sample.fitted.boxes if sample.fitted is not None else None for sample in samples]
    most = max((len(boxes.label_N) for boxes in sets if boxes is not None), default=0)
    xyxy_BG4 = torch.zeros((len(samples), most, 4), dtype=torch.float32)
    label_BG = torch.zeros((len(samples), most), dtype=torch.int64)
    mask_BG = torch.zeros((len(samples), most), dtype=torch.bool)
    for row, boxes in enumerate(sets):
        if boxes is not None:
            count = len(boxes.label_N)
            xyxy_BG4[row, :count] = boxes.xyxy_N4
            label_BG[row, :count] = boxes.label_N
            mask_BG[row, :count] = True
    return Boxes(
        xyxy_BG4,
        label_BG,
        mask_BG,
        torch.tensor([b is not None for b in sets]),
        annotated=tuple(np.zeros((0, 4)) if b is None else b.annotated_N4.numpy() for b in sets),
    )


_SILENCE = np.zeros(0, np.float32)


def _join_audio(samples: Sequence[Sample]) -> Audio:
    rows = [waveform for sample in samples for waveform in sample.waveforms or [_SILENCE]]
    lengths = [len(waveform) for waveform in rows]
    waveform_BT = torch.zeros((len(rows), max(1, *lengths)), dtype=torch.float32)
    for row, waveform in enumerate(rows):
        waveform_BT[row, : lengths[row]] = torch.from_numpy(waveform)
    counts = [max(1, len(sample.waveforms)) for sample in samples]
    return Audio(
        waveform_BT,
        torch.tensor(lengths),
        torch.tensor([bool(sample.waveforms) for sample in samples]),
        pieces=Pieces.of(counts, [max(1, length) for length in lengths]),
    )
