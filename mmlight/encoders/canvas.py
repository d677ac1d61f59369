"""What an encoder's network reads, as a map of rows and columns, and something else in its place.

Images are read as normal pixels, captions as token embeddings, sounds as log-mels. wav2vec2 and
HuBERT read waveforms, but normalise each clip, so that a quieter clip is the same to them, down to
silence: nothing can be told from the way there. Their canvas is what their convolutions make of
the waveform, frame by frame.

Shapes as in `mmlight.batch`: B samples; R rows (pixels, mel bands) and K columns (pixels, tokens,
frames) of the map.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mmlight.encoders.encoder import Encoder
from mmlight.encoders.eval_mode import eval_mode
from mmlight.encoders.hf_audio import HfAudio
from mmlight.encoders.hf_image import HfImage
from mmlight.encoders.hf_text import HfText
from mmlight.encoders.mel_timm import MelTimm
from mmlight.encoders.text_cnn import TextCnn
from mmlight.encoders.timm_image import TimmImage
from mmlight.encoders.wave_frames import frame_lengths, shortest_input
from mmlight.errors import UserError

# Axes of rows (None: there is one row) and columns in what models of transformers read.
_AUDIO_AXES: dict[str, tuple[int | None, int]] = {
    "wav2vec2": (None, 1),
    "hubert": (None, 1),
    "whisper": (1, 2),
    "audio-spectrogram-transformer": (2, 1),
    "clap_audio_model": (3, 2),
}


@dataclass(frozen=True)
class Canvas:
    """What a network reads: normal pixels, token embeddings, a log-mel, frames of a waveform.

    Attributes:
        values: float, (B, ...); captions and frames have one row.
        row_axis: axis of the rows; None where there is one row.
        column_axis: axis of the columns.
        real_B: columns of each sample that hold input; the others are padding.
    """

    values: Tensor
    row_axis: int | None
    column_axis: int
    real_B: Tensor

    @property
    def rows(self) -> int:
        """Number of rows R."""
        return 1 if self.row_axis is None else self.values.shape[self.row_axis]

    @property
    def columns(self) -> int:
        """Number of columns K."""
        return self.values.shape[self.column_axis]

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


@torch.no_grad()
def read_canvas(encoder: Encoder, inputs: Any) -> Canvas:
    """Return what an encoder's network reads of some inputs, in evaluation mode.

    Args:
        encoder: any encoder of this package.
        inputs: `Images`, `Text` or `Audio`.

    Raises:
        UserError: an encoder whose input is not known here.
    """
    seen: list[tuple[Tensor, Tensor | None]] = []

    def keep(values: Tensor, length_B: Tensor | None) -> None:
        seen.append((values, length_B))

    with eval_mode(encoder), _at_input(encoder, keep):
        encoder(inputs)
    values, length_B = seen[0]
    row_axis, column_axis = _axes(encoder)
    if isinstance(encoder, HfText | TextCnn):
        length_B = inputs.mask_NL.sum(1)
    elif isinstance(encoder, HfAudio) and encoder.raw:
        shortest = shortest_input(encoder.model.config)
        length_B = frame_lengths(inputs.length_B.clamp(min=shortest), encoder.model.config)
    elif length_B is None:
        length_B = torch.full((len(values),), values.shape[column_axis], device=values.device)
    return Canvas(values.detach().clone(), row_axis, column_axis, length_B)


@contextmanager
def replaced(encoder: Encoder, values: Tensor) -> Iterator[None]:
    """Have an encoder's network read other values; the encoder itself stays as it is.

    Args:
        encoder: any encoder of this package; it must be called with as many rows as `values` has.
        values: laid out as `Canvas.values`; gradients flow into them.
    """

    def put(old: Tensor, length_B: Tensor | None) -> Tensor:
        assert old.shape == values.shape, f"{tuple(values.shape)} for {tuple(old.shape)}"
        # A copy: some networks write into what they read (wav2vec2 clears padding).
        return values.to(old.dtype).clone()

    with _at_input(encoder, put):
        yield


def token_embeddings(encoder: Encoder) -> nn.Module:
    """Return the module of a text encoder that turns token ids into vectors."""
    if isinstance(encoder, TextCnn):
        return encoder.embeddings
    assert isinstance(encoder, HfText)
    table: nn.Module = encoder.model.get_input_embeddings()
    return table


def _axes(encoder: Encoder) -> tuple[int | None, int]:
    if isinstance(encoder, TimmImage | HfImage):
        return 2, 3
    if isinstance(encoder, MelTimm):
        return 1, 2
    if isinstance(encoder, HfAudio):
        return _AUDIO_AXES[encoder.kind]
    return None, 1


@contextmanager
def _at_input(
    encoder: Encoder, change: Callable[[Tensor, Tensor | None], Tensor | None]
) -> Iterator[None]:
    """Show `change` the network's input and the real lengths, and take what it returns for it."""
    handle: Any
    if isinstance(encoder, TimmImage):
        # Normalisation is no module of its own, so there is nothing to hook.
        model = encoder.model
        original = model.forward_features

        def forward_features(values: Tensor, *args: Any, **kwargs: Any) -> Any:
            new = change(values, None)
            return original(values if new is None else new, *args, **kwargs)

        model.forward_features = forward_features
        try:
            yield
        finally:
            del model.forward_features
        return
    if isinstance(encoder, MelTimm):

        def on_spectra(module: Any, args: Any, output: Any) -> Any:
            new = change(output.log_mel_BML, output.length_B)
            return output if new is None else replace(output, log_mel_BML=new)

        handle = encoder.log_mel.register_forward_hook(on_spectra)
    elif isinstance(encoder, HfAudio) and encoder.raw:

        def on_frames(module: Any, args: Any, output: Any) -> Any:
            is_tuple = isinstance(output, tuple)
            new = change(output[0] if is_tuple else output, None)
            if new is None:
                return output
            return (new, *output[1:]) if is_tuple else new

        handle = encoder.model.feature_projection.register_forward_hook(on_frames)
    elif isinstance(encoder, HfAudio):

        def on_features(module: Any, args: Any, output: Any) -> Any:
            new = change(output.values, output.length_B)
            return output if new is None else replace(output, values=new)

        handle = encoder.features.register_forward_hook(on_features)
    elif isinstance(encoder, HfImage):

        def on_pixels(module: Any, args: Any, given: dict[str, Any]) -> Any:
            new = change(given["pixel_values"], None)
            return args, given if new is None else given | {"pixel_values": new}

        handle = encoder.model.register_forward_pre_hook(on_pixels, with_kwargs=True)
    elif isinstance(encoder, HfText | TextCnn):
        handle = token_embeddings(encoder).register_forward_hook(
            lambda module, args, output: change(output, None)
        )
        try:
            with encoder.kept_padded() if isinstance(encoder, HfText) else nullcontext():
                yield
        finally:
            handle.remove()
        return
    else:
        raise UserError(f"explain: nothing is known of the input of a {type(encoder).__name__}")
    try:
        yield
    finally:
        handle.remove()
