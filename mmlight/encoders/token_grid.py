"""Where the tokens of a transformer, or the places of a CNN's map, lie on what the network reads.

Shapes as in `mmlight.batch`: B samples, L tokens, D features; R rows and K columns of a map.
"""

from dataclasses import dataclass

from torch import Tensor

from mmlight.encoders.canvas import Canvas
from mmlight.encoders.encoder import Encoder
from mmlight.encoders.hf_audio import HfAudio
from mmlight.encoders.hf_text import HfText
from mmlight.encoders.mel_timm import MelTimm
from mmlight.encoders.text_cnn import TextCnn
from mmlight.encoders.timm_image import TimmImage
from mmlight.errors import UserError


@dataclass(frozen=True)
class TokenGrid:
    """How a transformer's tokens cover its input.

    Attributes:
        prefix: tokens before the others that stand for no place (class tokens).
        rows: rows of the grid.
        columns: columns of the grid; tokens follow one another row by row.
        covers: rows and columns of the canvas under the whole grid, its padding included.
    """

    prefix: int
    rows: int
    columns: int
    covers: tuple[int, int]

    @property
    def num_tokens(self) -> int:
        """Number of tokens L, the first ones included."""
        return self.prefix + self.rows * self.columns


def token_grid(encoder: Encoder, canvas: Canvas) -> TokenGrid | None:
    """Return the grid of an encoder's tokens, or None for a network without a fixed one (a CNN).

    Args:
        encoder: an encoder that has just read the canvas.
        canvas: what it read.
    """
    covers = extent(encoder, canvas)
    if isinstance(encoder, TimmImage | MelTimm):
        grid = getattr(getattr(encoder.model, "patch_embed", None), "grid_size", None)
        # A Swin's windows have a grid too, but no sequence of tokens.
        if grid is None or not hasattr(encoder.model, "num_prefix_tokens"):
            return None
        return TokenGrid(int(encoder.model.num_prefix_tokens), int(grid[0]), int(grid[1]), covers)
    if isinstance(encoder, HfAudio):
        if encoder.kind == "clap_audio_model":
            return None
        if encoder.kind == "audio-spectrogram-transformer":
            rows, columns = encoder.model.embeddings.get_shape(encoder.model.config)
            return TokenGrid(2, int(rows), int(columns), covers)
        # Whisper's convolutions halve the frames of its log-mel.
        frames = canvas.columns if encoder.raw else (canvas.columns - 1) // 2 + 1
        return TokenGrid(0, 1, frames, covers)
    if isinstance(encoder, HfText | TextCnn):
        return TokenGrid(0, 1, canvas.columns, covers)
    return None


def extent(encoder: Encoder, canvas: Canvas) -> tuple[int, int]:
    """Return the rows and columns of the canvas that the network's maps cover, with padding."""
    if isinstance(encoder, MelTimm):
        return canvas.rows, encoder.time_mask.total
    return canvas.rows, canvas.columns


def as_map(encoder: Encoder, activation: Tensor, grid: TokenGrid | None) -> Tensor | None:
    """Lay a block's output out as a map (B, D, R, K), or return None where it is none.

    Args:
        encoder: the encoder that the block belongs to.
        activation: tokens (B, L, D), or maps (B, D, R, K), or of timm's (B, R, K, D) models.
        grid: the encoder's grid, for tokens.
    """
    if activation.ndim == 4:
        if not isinstance(encoder, TimmImage | MelTimm):
            return None
        nhwc = getattr(encoder.model, "output_fmt", "NCHW") == "NHWC"
        return activation.permute(0, 3, 1, 2) if nhwc else activation
    if activation.ndim != 3 or grid is None or activation.shape[1] != grid.num_tokens:
        return None
    tokens_BDL = activation[:, grid.prefix :].transpose(1, 2)
    return tokens_BDL.unflatten(2, (grid.rows, grid.columns))


def require_grid(encoder: Encoder, canvas: Canvas) -> TokenGrid:
    """Return the grid, or raise UserError for a network whose tokens have none."""
    grid = token_grid(encoder, canvas)
    if grid is None:
        model = type(getattr(encoder, "model", encoder)).__name__
        raise UserError(
            f"explain: a {model} has no attention between all of its tokens; use grad_cam or "
            "integrated_gradients"
        )
    return grid
