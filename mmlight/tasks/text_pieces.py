"""Texts of many rows a piece at a time: what a model says of them need not fit into memory.

Shapes as in `mmlight.batch`: N texts, L tokens.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch

from mmlight import comm
from mmlight.batch import Text

# 256 MiB of float32.
_MOST_SCORES = 1 << 26


def text_pieces(text: Text, *, vocab_size: int) -> Iterator[Text]:
    """Yield the rows of a text, as many at a time as are scored together, in their order.

    In evaluation a row is a window of a document, of which a batch may have thousands. All ranks
    yield equally often, since each step of a sharded model is one of all ranks: where one has no
    rows left, it yields its first again, of which nothing counts.

    Args:
        text: with a row at least.
        vocab_size: scores of each token.
    """
    each = max(1, _MOST_SCORES // (text.mask_NL.shape[1] * vocab_size))
    count = -(-text.size // each)
    if comm.is_distributed():
        count = int(comm.all_reduce_max(torch.tensor(count, device=text.mask_NL.device)))
    for number in range(count):
        start = number * each
        if start < text.size:
            yield text.rows(start, min(start + each, text.size))
        else:
            first = text.rows(0, 1)
            yield replace(first, counted_NL=torch.zeros_like(first.mask_NL))
