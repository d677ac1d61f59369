"""A batch of the right shapes for data that is not on this machine."""

from collections.abc import Mapping
from typing import Any

import torch

from mmlight.batch import Audio, Batch, Boxes, Images, Pieces, Text
from mmlight.data.module import ShardDataModule

# COCO's images have 7 on average.
_NUM_BOXES = 7


def blank_batch(
    data: ShardDataModule, size: int, *, fields: Mapping[str, Any] | None = None
) -> Batch:
    """Return a batch of the largest shapes that the settings allow.

    Images are as large as `data.image` has them, captions as long as they may be, and clips a
    sample shorter than that, as one that fills its length counts as cut. Labels are 0.

    Args:
        data: the data module; its shards are not read.
        size: samples.
        fields: a value for each further member that the task reads.
    """
    members = data.all_members()[0]
    here_B, rows_B = torch.ones(size, dtype=torch.bool), torch.arange(size)
    image = text = audio = boxes = None
    if data.image is not None:
        side = data.image.side
        each = data.image.frames or 1
        pixels = torch.zeros(size * each, data.image.num_channels, side, side, dtype=torch.uint8)
        image = Images(pixels, here_B, pieces=Pieces.of([each] * size))
    if data.text is not None:
        item_N = rows_B.repeat_interleave(data.text.captions_per_sample)
        # Full, but for the last token: a transcript that fills the length counts as cut.
        length = data.text.most_tokens - 1
        ids = torch.arange(length).remainder(2).add(data.text.known_tokenizer.vocab_size - 2)
        ids_NL = ids.expand(len(item_N), -1).contiguous()
        mask = torch.ones_like(ids_NL, dtype=torch.bool)
        # Every second character begins a word of one character.
        place = 2 * torch.arange(length)
        offset = torch.stack([place, place + 1], 1).expand(len(item_N), -1, -1)
        is_packed = data.text.documents == "packed"
        is_masked = data.text.masking is not None
        text = Text(
            token_ids_NL=ids_NL,
            mask_NL=mask,
            present_N=mask[:, 0],
            item_N=item_N,
            caption_id_N=item_N,
            offset_NL2=offset if data.text.offsets else None,
            target_NL=ids_NL if is_masked else None,
            counted_NL=(torch.arange(length) % 7 == 0).expand_as(mask) if is_masked else None,
            sample_NL=item_N[:, None].expand_as(ids_NL).contiguous() if is_packed else None,
        )
    if data.audio is not None:
        length = data.audio.max_samples
        windows = data.audio.windows
        each = windows.most if windows is not None and windows.training else 1
        wave, real = torch.zeros(size * each, length), torch.full((size * each,), length - 1)
        audio = Audio(wave, real, here_B, pieces=Pieces.of([each] * size))
    if members.boxes is not None and data.image is not None:
        corners = torch.tensor([0.0, 0, data.image.side / 2, data.image.side / 2])
        real_BG = torch.ones(size, _NUM_BOXES, dtype=torch.bool)
        label_BG = torch.zeros(size, _NUM_BOXES, dtype=torch.int64)
        boxes = Boxes(corners.expand(size, _NUM_BOXES, 4).contiguous(), label_BG, real_BG, here_B)
    given = fields or {}
    num_captions = len(text.item_N) if text is not None else 0
    return Batch(
        index_B=rows_B,
        keys=[str(row) for row in range(size)],
        epoch=0,
        step=0,
        valid_B=here_B,
        image=image,
        text=text,
        rejected=text if members.rejected is not None else None,
        audio=audio,
        boxes=boxes,
        label_B=torch.zeros(size, dtype=torch.int64) if members.label is not None else None,
        captions=[_words(data)] * num_captions,
        answer=text if members.answer is not None else None,
        answers=[_words(data)] * num_captions if members.answer is not None else [],
        fields={name: [given.get(name)] * size for name in members.fields},
    )


def _words(data: ShardDataModule) -> str:
    return " ".join("a" * data.text.most_tokens) if data.text is not None else ""
