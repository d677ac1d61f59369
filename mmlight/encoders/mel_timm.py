"""Audio encoders that read log-mel spectrograms with image models of timm.

Shapes: B samples, M mel bands, L frames or tokens, D feature width; C, H, W as of images.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmlight.batch import Audio
from mmlight.encoders.encoder import Encoded
from mmlight.encoders.mel import LogMel, LogMelSettings, SpecAugmentSettings, spec_augment
from mmlight.encoders.pool import AttentionPool, masked_max, masked_mean
from mmlight.encoders.timm_layers import TimmLayers, fixed_size
from mmlight.encoders.timm_model import create_timm, registered
from mmlight.errors import UserError

AudioPool = Literal["mean", "max", "attention"]

# What most networks shrink their input by; a width that divides makes masks exact.
_STRIDE = 32
_DEFAULT_MEL = LogMelSettings()
_WINDOWED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


class MelTimm(TimmLayers):
    """A timm model on the log-mel spectrogram as an image of one channel, pooled over real frames.

    Pooling over padding ruins audio classifiers (on spoken digits 84.7 % instead of 98.7 %), so
    only columns of real frames count, and a CNN's convolutions see zeros in the place of padding.

    Args:
        name: a model of timm, such as ``resnet18`` or ``vit_tiny_patch16_224``.
        pretrained: start from the weights that timm has for this name.
        weights: start from a local file instead.
        mel: how waveforms become spectrograms.
        frames: number of frames; clips are padded or cut to it. By default the longest clip
            of the batch decides; vision transformers need a number, and networks with squeeze
            and excitation should have one, since their gates see how much padding there is.
        pool: ``mean`` or ``max`` over real positions, or ``attention`` of one learned query.
        drop_path_rate: largest rate of stochastic depth; by default the model's own.
        kwargs: further arguments of the timm model.
        spec_augment: hide parts of the spectrograms in training.

    Attributes:
        sample_rate_hz: sampling rate that waveforms must have.

    Raises:
        UserError: unknown model, arguments that it does not take, weights that do not fit, or a
            transformer without `frames`.
    """

    modality = "audio"

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        weights: str | None = None,
        mel: LogMelSettings = _DEFAULT_MEL,
        frames: int | None = None,
        pool: AudioPool = "mean",
        drop_path_rate: float | None = None,
        kwargs: dict[str, Any] | None = None,
        spec_augment: SpecAugmentSettings | None = None,
    ) -> None:
        super().__init__()
        if pool not in get_args(AudioPool):
            raise UserError(f"pool: '{pool}'; use {', '.join(get_args(AudioPool))}")
        options = {
            "img_size": None if frames is None else (mel.n_mels, frames),
            "in_chans": 1,
            "global_pool": "",
            "drop_path_rate": drop_path_rate,
        }
        self.model = create_timm(
            name, pretrained=pretrained, weights=weights, options=options | (kwargs or {})
        )
        self.load(pretrained=pretrained, weights=weights)
        self._check_size(name, mel.n_mels, frames)
        self.log_mel = LogMel(mel)
        self.sample_rate_hz = mel.sample_rate_hz
        self.audio_frames = frames
        self.spec_augment = spec_augment
        self.token_dim = self.out_dim
        self.audio_pool = pool
        self.pool = AttentionPool(self.out_dim) if pool == "attention" else None
        self.time_mask = TimeMask()
        if fixed_size(self.model) is None:
            self.time_mask.attach(self.model)
        self._init_args = registered(name, kwargs) | {
            "mel": mel,
            "frames": frames,
            "pool": pool,
            "drop_path_rate": drop_path_rate,
            "spec_augment": spec_augment,
        }

    def _check_size(self, name: str, n_mels: int, frames: int | None) -> None:
        wanted = fixed_size(self.model)
        if wanted is None:
            return
        if frames is None:
            raise UserError(
                f"frames: '{name}' takes spectrograms of one size only; set it to the "
                "number of frames of the longest clip (its seconds times 1000 / mel.hop_ms)"
            )
        patch = self.model.patch_embed.patch_size
        if n_mels % patch[0] or frames % patch[1]:
            raise UserError(
                f"frames: {n_mels} mel bands x {frames} frames do not divide into patches "
                f"of {patch[0]} x {patch[1]}"
            )

    def forward(self, inputs: Audio, *, tokens: bool = False) -> Encoded:
        """Encode clips.

        Args:
            inputs: waveforms (B, T) at `sample_rate_hz`, with their lengths.
            tokens: also return the last map, position by position, one frequency after another.
        """
        spectra = self.log_mel(inputs.waveform_BT, inputs.length_B)
        length = spectra.log_mel_BML.shape[-1]
        # Not -(-length // _STRIDE): ONNX rounds a division of whole numbers towards zero.
        total = self.audio_frames or (length + _STRIDE - 1) // _STRIDE * _STRIDE
        image_BML = self.observed(
            spectra.log_mel_BML, axes=(1, 2), real_B=spectra.length_B, covered_columns=total
        )
        if self.training and self.spec_augment is not None:
            image_BML = spec_augment(image_BML, spectra.length_B, self.spec_augment)
        image_BML = F.pad(image_BML, (0, total - length))  # a negative pad cuts
        self.time_mask.length_B = spectra.length_B.clamp(max=total)
        self.time_mask.total = total
        dtype = next(self.model.parameters()).dtype
        features = self.model.forward_features(image_BML.unsqueeze(1).to(dtype))
        features = self.model.forward_head(features, pre_logits=True)
        tokens_BLD, width = self.to_tokens(features), self._width(features, total)
        keep_BW = self.time_mask.columns(width)
        mask_BL = keep_BW.repeat(1, tokens_BLD.shape[1] // width)
        if self.pool is not None:
            pooled_BD = self.pool(tokens_BLD, mask_BL)
        elif self.audio_pool == "max":
            pooled_BD = masked_max(tokens_BLD, mask_BL)
        else:
            pooled_BD = masked_mean(tokens_BLD, mask_BL)
        return Encoded(pooled_BD, tokens_BLD, mask_BL) if tokens else Encoded(pooled_BD)

    def _width(self, features: Any, total: int) -> int:
        """Return how many positions of the features follow one another in time."""
        if features.ndim == 3:
            return total // self.model.patch_embed.patch_size[1]
        return features.shape[2 if self.map_layout == "NHWC" else 3]

    def preparation(self) -> dict[str, Any]:
        """Return the sampling rate, and the length of `frames`."""
        frames, hop_ms = self.audio_frames, self.log_mel.settings.hop_ms
        seconds = None if frames is None else frames * hop_ms / 1000
        return {"sample_rate_hz": self.sample_rate_hz, "max_seconds": seconds}

    def rebuild_args(self) -> dict[str, Any]:
        """Return init arguments that rebuild this architecture without any weights file."""
        return dict(self._init_args)


class TimeMask:
    """Zeroes the columns past each clip's end before every windowed operation of a network.

    A network's norms and biases fill padding with values that its convolutions then leak into
    real frames. With the padding zero at each depth a clip sees what it would see alone: zeros.
    Networks that pool inside (squeeze and excitation) are not covered: their gates still see how
    much padding there is, so give them a fixed number of frames.
    """

    def __init__(self) -> None:
        self.length_B: Tensor | None = None
        self.total = 0

    def attach(self, model: nn.Module) -> None:
        """Hook every convolution and pooling whose window is wider than one column."""
        for module in model.modules():
            kernel = getattr(module, "kernel_size", 1)
            width = kernel[-1] if isinstance(kernel, tuple) else kernel
            if isinstance(module, _WINDOWED) and width > 1:
                # A bound method: a deep copy of the network (EMA) gets a mask of its own.
                module.register_forward_pre_hook(self._hook)

    def columns(self, width: int) -> Tensor:
        """Return the mask (B, width) of columns that hold real frames at this depth."""
        assert self.length_B is not None
        real_B = (self.length_B * width + self.total - 1) // self.total
        return torch.arange(width, device=real_B.device) < real_B.unsqueeze(1)

    def _hook(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        maps_BCHW, *others = args
        keep_BW = self.columns(maps_BCHW.shape[-1])
        return (maps_BCHW * keep_BW[:, None, None].to(maps_BCHW.dtype), *others)
