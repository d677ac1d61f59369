"""Which tokens of long texts lie in which row: plans from lengths alone, in NumPy.

Shapes: N texts, L places of a row, T tokens of all texts one after another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Document:
    """The tokens of one text.

    Attributes:
        ids_T: int64.
        target_T: what stood there before some were masked; None where none is.
        counted_T: bool, tokens whose loss counts.
        text: the text.
        item: the row of the batch that it belongs to.
        present: whether there is a text at all; without one there is one token of padding.
    """

    ids_T: Ints
    target_T: Ints | None
    counted_T: Flags
    text: str
    item: int
    present: bool = True


@dataclass(frozen=True)
class Window:
    """Some tokens of a text.

    Attributes:
        start: the first.
        stop: the one after the last.
        new: the first that no window before holds.
    """

    start: int
    stop: int
    new: int


def all_windows(length: int, *, width: int, stride: int) -> Iterator[Window]:
    """Yield windows that hold all tokens of a text, each of which is new in one of them.

    Args:
        length: tokens of the text.
        width: most of a window.
        stride: from one window's first token to the next one's; below the width, new tokens are
            seen together with some before them.
    """
    start = new = 0
    while True:
        stop = min(start + width, length)
        yield Window(start, stop, new)
        if stop == length:
            return
        start, new = start + stride, stop


def rows_of_windows(
    documents: Sequence[Document], windows: Sequence[tuple[int, Window]], *, pad_id: int
) -> dict[str, npt.NDArray[np.generic]]:
    """Return one row for each window, padded on the right to the longest.

    Args:
        documents: the texts.
        windows: the number of a text, and which of its tokens.
        pad_id: what padding holds.
    """
    width = max(window.stop - window.start for _, window in windows)
    shape = (len(windows), width)
    rows = _empty(shape, pad_id=pad_id)
    for row, (number, window) in enumerate(windows):
        document, cut = documents[number], slice(window.start, window.stop)
        length = window.stop - window.start
        rows["ids"][row, :length] = document.ids_T[cut]
        rows["mask"][row, :length] = True
        rows["target"][row, :length] = document.ids_T[cut]
        if document.target_T is not None:
            rows["target"][row, :length] = document.target_T[cut]
        rows["counted"][row, :length] = document.counted_T[cut]
        rows["counted"][row, : window.new - window.start] = False
    return rows


def packed_rows(
    documents: Sequence[Document], *, width: int, pad_id: int
) -> dict[str, npt.NDArray[np.generic]]:
    """Return texts one after another in rows of one width, of which the last has padding.

    A text that does not fit goes on in the next row. ``number`` is that of each token's text, -1
    for padding.
    """
    ids_T = np.concatenate([document.ids_T for document in documents])
    rows = _empty((-(-len(ids_T) // width), width), pad_id=pad_id)
    target_T = [d.ids_T if d.target_T is None else d.target_T for d in documents]
    lengths = [len(document.ids_T) for document in documents]
    flat = {
        "ids": ids_T,
        "mask": np.ones(len(ids_T), np.bool_),
        "target": np.concatenate(target_T),
        "counted": np.concatenate([document.counted_T for document in documents]),
        "number": np.repeat(np.arange(len(documents)), lengths),
    }
    for name, values in flat.items():
        rows[name].reshape(-1)[: len(ids_T)] = values
    return rows


def _empty(shape: tuple[int, int], *, pad_id: int) -> dict[str, npt.NDArray[np.generic]]:
    return {
        "ids": np.full(shape, pad_id, np.int64),
        "mask": np.zeros(shape, np.bool_),
        "target": np.full(shape, pad_id, np.int64),
        "counted": np.zeros(shape, np.bool_),
        "number": np.full(shape, -1, np.int64),
    }
