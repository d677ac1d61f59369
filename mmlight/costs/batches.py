"""A batch of the right shapes for data that is not on this machine."""

import torch

from mmlight.batch import Audio, Batch, Images, Text
from mmlight.data.module import ShardDataModule


def blank_batch(data: ShardDataModule, size: int) -> Batch | None:
    """Return a batch of the largest shapes that the settings allow, or None if they do not tell.

    Images are as large as `data.image` has them, captions and clips as long as they may be. Labels
    are 0; tasks that read boxes or words need the data itself.

    Args:
        data: the data module; its shards are not read.
        size: samples.
    """
    members = data.all_members()[0]
    if members.boxes is not None or members.fields:
        return None
    here_B, rows_B = torch.ones(size, dtype=torch.bool), torch.arange(size)
    image = text = audio = None
    if data.image is not None:
        side = data.image.side
        pixels = torch.zeros(size, data.image.num_channels, side, side, dtype=torch.uint8)
        image = Images(pixels, here_B)
    if data.text is not None:
        item_N = rows_B.repeat_interleave(data.text.captions_per_sample)
        ids = torch.ones(len(item_N), data.text.most_tokens, dtype=torch.int64)
        mask = torch.ones_like(ids, dtype=torch.bool)
        text = Text(ids, mask, mask[:, 0], item_N, item_N)
    if data.audio is not None:
        length = data.audio.max_samples
        audio = Audio(torch.zeros(size, length), torch.full((size,), length), here_B)
    return Batch(
        index_B=rows_B,
        keys=[str(row) for row in range(size)],
        epoch=0,
        step=0,
        valid_B=here_B,
        image=image,
        text=text,
        audio=audio,
        label_B=torch.zeros(size, dtype=torch.int64) if members.label is not None else None,
        captions=["a"] * len(text.item_N) if text is not None else [],
    )
