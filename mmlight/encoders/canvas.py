"""What an encoder's network reads, as a map of rows and columns, and how its tokens cover it.

Images are read as normal pixels, captions as token embeddings, sounds as log-mels. wav2vec2 and
HuBERT read waveforms, but normalise each clip, so that a quieter clip is the same to them, down to
silence: nothing can be told from the way there. Their canvas is what their convolutions make of
the waveform, frame by frame.

Shapes as in `mmlight.batch`: B samples; R rows (pixels, mel bands) and K columns (pixels, tokens,
frames) of the map.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Canvas:
    """What a network reads: normal pixels, token embeddings, a log-mel, frames of a waveform.

    Attributes:
        values: float, (B, ...); captions and frames have one row.
        row_axis: axis of the rows; None where there is one row.
        column_axis: axis of the columns.
        real_B: columns of each sample that hold input; the others are padding.
        covered_columns: columns that the network's tokens or maps cover: more than there are where
            it pads, fewer where it cuts.
    """

    values: Tensor
    row_axis: int | None
    column_axis: int
    real_B: Tensor
    covered_columns: int

    @property
    def rows(self) -> int:
        """Number of rows R."""
        return 1 if self.row_axis is None else self.values.shape[self.row_axis]

    @property
    def columns(self) -> int:
        """Number of columns K."""
        return self.values.shape[self.column_axis]

    @property
    def covered(self) -> tuple[int, int]:
        """Rows and columns that the network's tokens or maps cover."""
        return self.rows, self.covered_columns

    def to_map(self, values: Tensor) -> Tensor:
        """Sum values laid out as this canvas over all but rows and columns: (B, R, K)."""
        size = (len(values), self.rows, self.columns, -1)
        if self.row_axis is None:
            return values.movedim(self.column_axis, 1).reshape(size).sum(3)
        return values.movedim((self.row_axis, self.column_axis), (1, 2)).reshape(size).sum(3)

    def spread(self, map_BRK: Tensor) -> Tensor:
        """Return a map so that it broadcasts to this canvas' values."""
        shape = [len(map_BRK)] + [1] * (self.values.ndim - 1)
        shape[self.column_axis] = map_BRK.shape[2]
        if self.row_axis is not None:
            shape[self.row_axis] = map_BRK.shape[1]
            if self.row_axis > self.column_axis:
                map_BRK = map_BRK.transpose(1, 2)
        return map_BRK.reshape(shape)


@dataclass(frozen=True)
class TokenGrid:
    """How a transformer's tokens cover its canvas.

    Attributes:
        prefix: tokens before the others that stand for no place (class tokens).
        rows: rows of the grid.
        columns: columns of the grid; tokens follow one another row by row.
    """

    prefix: int
    rows: int
    columns: int

    @property
    def num_tokens(self) -> int:
        """Number of tokens L, the first ones included."""
        return self.prefix + self.rows * self.columns
