"""What earlier versions called classes and settings, so that their files still load.

Experiments and checkpoints name classes by their full path and settings by their keyword. Where one
of them got another name, it stands here, and in the change log.
"""

from collections.abc import Mapping
from typing import Any

# Full paths: of a class, or of a module for all its classes.
CLASSES: dict[str, str] = {
    "mmlight.data.audio": "mmlight.data.decode.audio",
    "mmlight.data.corruptions": "mmlight.data.decode.corruptions",
    "mmlight.data.files": "mmlight.data.splits.plain_files",
    "mmlight.data.image": "mmlight.data.decode.image",
    "mmlight.data.saved_tokenizer": "mmlight.published.saved_tokenizer",
    "mmlight.text.saved_tokenizer.SavedTokenizer": (
        "mmlight.published.saved_tokenizer.SavedTokenizer"
    ),
    "mmlight.data.split": "mmlight.data.splits.split",
    "mmlight.data.text.HfTokenizer": "mmlight.text.json_tokenizer.HfTokenizer",
    "mmlight.data.tokenizer": "mmlight.text.tokenizer",
    "mmlight.data.tokenizer.JsonTokenizer": "mmlight.text.json_tokenizer.JsonTokenizer",
    "mmlight.data.tokenizer_char": "mmlight.text.tokenizer",
    "mmlight.strategies.ddp": "mmlight.trainer.strategies",
    "mmlight.strategies.fsdp": "mmlight.trainer.strategies",
    "mmlight.callbacks.early_stopping": "mmlight.trainer.early_stopping",
    "mmlight.callbacks.ema": "mmlight.trainer.ema",
    "mmlight.callbacks.embeddings": "mmlight.callbacks.recording.embeddings",
    "mmlight.callbacks.errors_table": "mmlight.callbacks.showing.errors_table",
    "mmlight.callbacks.explain": "mmlight.callbacks.showing.explain",
    "mmlight.callbacks.pictures": "mmlight.callbacks.showing.pictures",
    "mmlight.callbacks.predictions": "mmlight.callbacks.recording.predictions",
    "mmlight.callbacks.probe": "mmlight.callbacks.measuring.probe",
    "mmlight.callbacks.progress": "mmlight.callbacks.showing.progress",
    "mmlight.callbacks.throughput": "mmlight.callbacks.measuring.throughput",
    "mmlight.callbacks.zero_shot": "mmlight.callbacks.measuring.zero_shot",
}
# The class by its present path: what its settings were called, what they are called now.
SETTINGS: dict[str, dict[str, str]] = {
    "mmlight.encoders.timm_image.TimmImage": {
        "timm_name": "name",
        "timm_pretrained": "pretrained",
        "timm_weights": "weights",
        "timm_kwargs": "kwargs",
        "image_stem": "stem",
        "image_pool": "pool",
        "image_mean": "mean",
        "image_std": "std",
    },
    "mmlight.encoders.mel_timm.MelTimm": {
        "audio_timm_name": "name",
        "audio_timm_pretrained": "pretrained",
        "audio_timm_weights": "weights",
        "audio_timm_kwargs": "kwargs",
        "audio_frames": "frames",
        "audio_pool": "pool",
        "audio_drop_path_rate": "drop_path_rate",
    },
    "mmlight.encoders.hf_text.HfText": {
        "text_config": "config",
        "text_pretrained": "pretrained",
        "text_pool": "pool",
        "text_kwargs": "kwargs",
        "text_batching": "batching",
    },
    "mmlight.encoders.hf_image.HfImage": {
        "vision_config": "config",
        "vision_pretrained": "pretrained",
        "vision_pool": "pool",
        "vision_kwargs": "kwargs",
        "vision_mean": "mean",
        "vision_std": "std",
    },
    "mmlight.encoders.hf_audio.HfAudio": {
        "audio_config": "config",
        "audio_pretrained": "pretrained",
        "audio_hf_pool": "pool",
        "audio_kwargs": "kwargs",
        "audio_features": "features",
        "audio_spec_augment": "spec_augment",
    },
    "mmlight.encoders.mel_gru.MelGru": {
        "speech_mel": "mel",
        "speech_channels": "channels",
        "speech_dim": "dim",
        "speech_layers": "layers",
        "speech_dropout": "dropout",
        "speech_augment": "spec_augment",
    },
    "mmlight.encoders.text_cnn.TextCnn": {
        "cnn_vocab_size": "vocab_size",
        "cnn_embed_dim": "embed_dim",
        "cnn_widths": "widths",
        "cnn_filters": "filters",
        "cnn_dropout": "dropout",
        "cnn_token_dropout": "token_dropout",
    },
}


def present_path(path: str) -> str:
    """Return what a class, given by its full path, is called now."""
    if path in CLASSES:
        return CLASSES[path]
    module, _, name = path.rpartition(".")
    return f"{CLASSES[module]}.{name}" if module in CLASSES else path


def present_settings(path: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a class, given by its present path, with their present names."""
    names = SETTINGS.get(path, {}) if isinstance(path, str) else {}
    return {names.get(key, key): value for key, value in given.items()}


def present_names(value: Any) -> Any:
    """Return plain values of a configuration or description with the present names in them.

    Args:
        value: any plain value; where a mapping has a `class_path`, that path and the keys of its
            `init_args` are looked up. Nothing is changed in place.
    """
    if isinstance(value, list):
        return [present_names(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    made = {key: present_names(item) for key, item in value.items()}
    path, given = made.get("class_path"), made.get("init_args")
    if isinstance(path, str):
        made["class_path"] = path = present_path(path)
        if isinstance(given, dict):
            made["init_args"] = present_settings(path, given)
    return made
