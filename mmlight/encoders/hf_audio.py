"""Audio encoders of transformers: wav2vec2, HuBERT, Whisper's encoder, AST and CLAP.

Shapes as in `mmlight.batch`: B samples, T waveform samples, L frames, D feature width.
"""

from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor, nn
from transformers import (
    ASTFeatureExtractor,
    ASTModel,
    ClapAudioModel,
    ClapFeatureExtractor,
    ClapModel,
    HubertModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WhisperFeatureExtractor,
    WhisperModel,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from mmlight.batch import Audio
from mmlight.encoders.canvas import Canvas, TokenGrid
from mmlight.encoders.encoder import Encoded
from mmlight.encoders.hf_audio_features import (
    AudioFeatures,
    ClapMel,
    Features,
    KaldiFbank,
    NormalWaveform,
    WhisperMel,
)
from mmlight.encoders.hf_layers import HfLayers
from mmlight.encoders.hf_model import (
    build_model,
    extractor_args,
    plain_config,
    read_extractor,
    read_source,
)
from mmlight.encoders.hf_waves import drop_layers, wave_frames
from mmlight.encoders.mel import SpecAugmentSettings, length_mask, spec_augment
from mmlight.encoders.pool import AttentionPool, masked_mean, on_first
from mmlight.errors import UserError

HfAudioPool = Literal["model", "mean", "attention"]

# What runs each, its feature extractor, and what computes the same; by the type that the config of
# a whole model or of its audio part has.
_KINDS: dict[str, tuple[Any, Any, Any]] = {
    "wav2vec2": (Wav2Vec2Model, Wav2Vec2FeatureExtractor, NormalWaveform),
    "hubert": (HubertModel, Wav2Vec2FeatureExtractor, NormalWaveform),
    "whisper": (WhisperModel, WhisperFeatureExtractor, WhisperMel),
    "audio-spectrogram-transformer": (ASTModel, ASTFeatureExtractor, KaldiFbank),
    "clap": (ClapModel, ClapFeatureExtractor, ClapMel),
    "clap_audio_model": (ClapAudioModel, ClapFeatureExtractor, ClapMel),
}
AUDIO_TYPES = tuple(_KINDS)
# Off unless asked for, though transformers' configs have them on.
_QUIET = {"layerdrop": 0.0, "mask_time_prob": 0.0, "mask_feature_prob": 0.0}


class HfAudio(HfLayers):
    """An audio model of transformers, fed from waveforms.

    Features (normalised waveforms, log-mels) are computed on the device with the numbers of the
    model's own feature extractor. wav2vec2 and HuBERT take clips of any length, and a clip gives
    the same result whatever it is padded to. The others pad clips to the model's own length and
    cut longer ones to it.

    Args:
        config: start from random weights: a dict with ``model_type`` (``wav2vec2``,
            ``hubert``, ``whisper``, ``audio-spectrogram-transformer`` or ``clap_audio_model``)
            and sizes, or a folder with a ``config.json``.
        pretrained: start from a checkpoint instead: a local folder or a hub id. Set exactly
            one of the two.
        pool: ``mean`` of real frames, ``attention`` of one learned query, or the
            ``model``'s own (AST and CLAP). By default the model's own, else the mean.
        kwargs: fields of the config to change, such as dropout rates. For wav2vec2 and
            HuBERT ``layerdrop``, ``mask_time_prob`` and ``mask_feature_prob`` are 0 unless set.
        features: parameters of the feature extractor to change, such as ``sampling_rate``,
            ``mean`` and ``std`` (AST) or ``max_length_s`` (CLAP); by default the checkpoint's,
            or those of transformers' class.
        spec_augment: hide parts of the log-mels in training; wav2vec2 and HuBERT, which
            read waveforms, have ``mask_time_prob`` and ``mask_feature_prob`` for that.

    Attributes:
        sample_rate_hz: sampling rate that waveforms must have.
        frame_ms: distance of two tokens of wav2vec2, HuBERT and Whisper; None for the others, whose
            tokens are patches.

    Raises:
        UserError: no or two sources, a model that is not listed, unknown fields, a checkpoint
            that does not fit.
    """

    modality = "audio"
    stem = ("model.audio_encoder.batch_norm.",)

    def __init__(
        self,
        *,
        config: dict[str, Any] | str | None = None,
        pretrained: str | None = None,
        pool: HfAudioPool | None = None,
        kwargs: dict[str, Any] | None = None,
        features: dict[str, Any] | None = None,
        spec_augment: SpecAugmentSettings | None = None,
    ) -> None:
        super().__init__()
        built, key = read_source(config, pretrained, changes=kwargs)
        if built.model_type not in _KINDS:
            raise UserError(
                f"{key}: '{built.model_type}' is no audio encoder that mmlight knows; use one of "
                + ", ".join(_KINDS)
            )
        self.raw = built.model_type in ("wav2vec2", "hubert")
        if self.raw:
            asked = set(kwargs or {}) | (set(config) if isinstance(config, dict) else set())
            built.update({name: off for name, off in _QUIET.items() if name not in asked})
            if getattr(built, "add_adapter", False):
                raise UserError(f"{key}: add_adapter is not supported; set it to false")
            self.layerdrop, built.layerdrop = float(built.layerdrop), 0.0
        self.model, self.origin = _build(built, pretrained=pretrained, key=key)
        if self.raw and self.layerdrop:
            drop_layers(self.model, self.layerdrop)
        built = self.model.config
        self.kind = kind = built.model_type
        _, extractor_class, features_class = _KINDS[kind]
        extractor = read_extractor(
            extractor_class, checkpoint=pretrained, own=_own_parameters(built), changes=features
        )
        self.sample_rate_hz = int(extractor.sampling_rate)
        self.features: AudioFeatures = features_class(extractor, built)
        self.frame_ms = self.features.frame_ms
        self.out_dim = int(
            self.model.audio_encoder.num_features
            if kind == "clap_audio_model"
            else built.hidden_size
        )
        pooled_by_model = kind in ("audio-spectrogram-transformer", "clap_audio_model")
        self.pooling = pool or ("model" if pooled_by_model else "mean")
        if self.pooling not in get_args(HfAudioPool) or (
            self.pooling == "model" and not pooled_by_model
        ):
            raise UserError(
                f"pool: '{self.pooling}' does not suit a '{kind}'; use mean or attention"
            )
        self.is_pretrained = pretrained is not None
        self.pool = AttentionPool(self.out_dim) if self.pooling == "attention" else None
        self._features_args = extractor_args(extractor)
        if self.raw and spec_augment is not None:
            raise UserError(
                f"spec_augment: a '{kind}' has no log-mels; set mask_time_prob and "
                "mask_feature_prob in kwargs"
            )
        self.spec_augment = spec_augment

    def forward(self, inputs: Audio, *, tokens: bool = False) -> Encoded:
        """Encode clips.

        Args:
            inputs: waveforms (B, T) at `sample_rate_hz`, with their lengths.
            tokens: also return the model's frames (patches, for AST and CLAP).
        """
        features = self.features(inputs.waveform_BT, inputs.length_B)
        if (axes := self.features.axes) is not None:
            real_B = features.length_B
            features = Features(self.observed(features.values, axes=axes, real_B=real_B), real_B)
        dtype = next(self.model.parameters()).dtype
        if self.training and self.spec_augment is not None:
            features = _augment(features, self.spec_augment, frames_last=self.kind == "whisper")
        features = Features(features.values.to(dtype), features.length_B)
        tokens_BLD, mask_BL, own_BD = self._run(features)
        if self.pooling == "model":
            assert own_BD is not None
            pooled_BD = own_BD
        elif self.pool is not None:
            pooled_BD = self.pool(tokens_BLD, mask_BL)
        else:
            pooled_BD = masked_mean(tokens_BLD, mask_BL)
        return Encoded(pooled_BD, tokens_BLD, mask_BL) if tokens else Encoded(pooled_BD)

    def _run(self, features: Features) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return tokens, their mask, and the model's own pooled features where it has them."""
        values, config = features.values, self.model.config
        if self.raw:
            observed = partial(self.observed, axes=(None, 1))
            return *wave_frames(self.model, values, features.length_B, observed=observed), None
        if self.kind == "whisper":
            tokens_BLD = self.model(values).last_hidden_state
            real_B = (features.length_B - 1) // 2 + 1
            return tokens_BLD, length_mask(real_B, tokens_BLD.shape[1]), None
        if self.kind == "clap_audio_model":
            # Clips are cut to the model's duration, so none is longer than it.
            longer_B1 = values.new_zeros(values.shape[0], 1)
            output = self.model(values, is_longer=longer_B1)
            tokens_BLD = output.last_hidden_state.flatten(2).transpose(1, 2)
            everywhere_BL = tokens_BLD.new_ones(tokens_BLD.shape[:2]).bool()
            return tokens_BLD, everywhere_BL, output.pooler_output
        output = self.model(values)
        tokens_BLD = output.last_hidden_state[:, 2:]  # after class and distillation token
        rows, columns = self.model.embeddings.get_shape(config)
        real_B = (-(-features.length_B // config.time_stride)).clamp(max=columns)
        mask_BL = length_mask(real_B, columns).repeat(1, rows)
        return tokens_BLD, mask_BL, output.pooler_output

    def token_grid(self, canvas: Canvas) -> TokenGrid | None:
        """Return AST's patches, or frames in time; CLAP's tokens have no fixed grid."""
        if self.kind == "clap_audio_model":
            return None
        if self.kind == "audio-spectrogram-transformer":
            rows, columns = self.model.embeddings.get_shape(self.model.config)
            return TokenGrid(2, int(rows), int(columns))
        # Whisper's convolutions halve the frames of its log-mel.
        return TokenGrid(0, 1, canvas.columns if self.raw else (canvas.columns - 1) // 2 + 1)

    def pooling_weights(self, mask_BL: Tensor) -> Tensor:
        """Return AST's class and distillation token where the model itself pools."""
        by_model = self.pooling == "model"
        return on_first(mask_BL, count=2) if by_model else super().pooling_weights(mask_BL)

    def preparation(self) -> dict[str, Any]:
        """Return the sampling rate, and the model's own length where it has one."""
        return {"sample_rate_hz": self.sample_rate_hz, "max_seconds": self.features.seconds}

    def rebuild_args(self) -> dict[str, Any]:
        """Return init arguments that rebuild this architecture without any checkpoint."""
        return {
            "config": plain_config(self.model)
            | ({"layerdrop": self.layerdrop} if self.raw else {}),
            "pool": self.pooling,
            "features": self._features_args,
            "spec_augment": self.spec_augment,
        }


def _build(config: Any, *, pretrained: str | None, key: str) -> tuple[Any, str | None]:
    """Create the audio part of a model, and say what was loaded."""
    kind = config.model_type
    if kind == "clap" and pretrained is None:
        raise UserError(f"{key}: 'clap' has a text model too; use clap_audio_model")
    model_class = WhisperEncoder if kind == "whisper" and pretrained is None else _KINDS[kind][0]
    model, origin = build_model(model_class, config, pretrained=pretrained, key=key)
    if model_class is WhisperModel:
        return model.get_encoder(), origin
    if kind not in ("clap", "clap_audio_model"):
        return model, origin
    model = model.audio_model if kind == "clap" else model
    embed = model.audio_encoder.patch_embed
    if embed.enable_fusion:
        # Reads clips longer than the model's duration, of which there are none.
        nn.ModuleList([embed.fusion_model, embed.mel_conv2d]).requires_grad_(False)
    return model, origin


def _own_parameters(config: Any) -> dict[str, Any]:
    """Return the parameters of the feature extractor that the model's sizes fix."""
    if config.model_type == "audio-spectrogram-transformer":
        return {"num_mel_bins": config.num_mel_bins, "max_length": config.max_length}
    if config.model_type in ("whisper", "clap_audio_model"):
        return {"feature_size": config.num_mel_bins}
    return {}


def _augment(features: Features, settings: SpecAugmentSettings, *, frames_last: bool) -> Features:
    """Hide parts of log-mels (B, M, L), (B, L, M) or (B, 1, L, M)."""
    values = features.values if frames_last else features.values.transpose(-1, -2)
    flat_BML = values.reshape(values.shape[0], *values.shape[-2:])
    hidden = spec_augment(flat_BML, features.length_B, settings).view(values.shape)
    return Features(hidden if frames_last else hidden.transpose(-1, -2), features.length_B)
