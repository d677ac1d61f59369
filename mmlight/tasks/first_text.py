"""One text per sample, where evaluation has several."""

from dataclasses import replace

import torch
from torch import Tensor

from mmlight.batch import Batch, Text


def first_rows(text: Text, size: int) -> Tensor:
    """Return the number of each sample's first row, (B,).

    Args:
        text: every sample has at least one row; one without a text has a row that is not present.
        size: B.
    """
    rows_N = torch.arange(text.item_N.shape[0], device=text.item_N.device)
    return rows_N.new_full((size,), rows_N.shape[0]).scatter_reduce(
        0, text.item_N, rows_N, reduce="amin"
    )


def with_first_text(batch: Batch) -> Batch:
    """Return the batch with the first text of each sample; the same where it has one of each."""
    text = batch.text
    if text is None or text.item_N.shape[0] == batch.size:
        return batch
    first_B = first_rows(text, batch.size)
    one_each = replace(
        text._map(lambda rows: rows[first_B]),
        item_N=torch.arange(batch.size, device=text.item_N.device),
    )
    captions = [batch.captions[row] for row in first_B.tolist()]
    return replace(batch, text=one_each, captions=captions)
