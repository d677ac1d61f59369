"""Single encoders of transformers and timm, from their folders, as a task that only encodes."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mmlight.data.decode.audio import AudioSettings
from mmlight.data.decode.image import ImageSettings
from mmlight.data.following import follow_audio, follow_image
from mmlight.encoders.hf_audio import AUDIO_TYPES, HfAudio
from mmlight.encoders.hf_image import IMAGE_TYPES, HfImage
from mmlight.encoders.hf_text import HfText
from mmlight.encoders.timm_image import TimmImage
from mmlight.errors import UserError
from mmlight.modality import MODALITIES, Modality
from mmlight.published.hf.folder import CONFIG, TOKENIZER_CONFIG, has_tokenizer, read_json
from mmlight.published.hf.kinds import KINDS
from mmlight.tasks.features import Features
from mmlight.tasks.tower import Towers, TowerSettings
from mmlight.text.json_tokenizer import HfTokenizer

_TIMM_WEIGHTS = ("model.safetensors", "pytorch_model.bin")

# Arguments of a model of timm that `TimmImage` has settings for.
_OF_TIMM = {
    "img_size": "img_size",
    "in_chans": "in_chans",
    "global_pool": "pool",
    "drop_path_rate": "drop_path_rate",
}


def is_single_encoder(folder: Path, *, key: str) -> bool:
    """Say whether a folder is one of timm, or of transformers with no pair of towers.

    Raises:
        UserError: its config cannot be read.
    """
    config = read_json(folder / CONFIG, key=key)
    if isinstance(config.get("model_type"), str):
        return config["model_type"] not in KINDS
    return isinstance(config.get("architecture"), str)


def read_encoder(folder: Path, *, key: str) -> Features:
    """Read an encoder with its weights and the preparation of its inputs.

    Args:
        folder: BERT, ViT, AST, wav2vec2, Whisper (its encoder) and others of transformers that
            `HfText`, `HfImage` and `HfAudio` have, or a model of timm.
        key: what names the folder, for messages.

    Raises:
        UserError: it is of no such kind, lacks tensors, or has no tokenizer where it reads text.
    """
    config = read_json(folder / CONFIG, key=key)
    kind, path = config.get("model_type"), str(folder)
    modality: Modality = "image"
    if kind is None:
        make: Any = partial(TimmImage, **_timm(folder, config, key=key))
    elif kind in AUDIO_TYPES:
        modality, make = "audio", partial(HfAudio, pretrained=path)
    elif kind in IMAGE_TYPES:
        make = partial(HfImage, pretrained=path)
    else:
        modality, make = "text", partial(HfText, pretrained=path)
    try:
        task = Features(towers=Towers(**{modality: TowerSettings(encoder=make)}))
        task.configure_model()
    except UserError as error:
        raise UserError(f"{key}: {folder}: {error}") from error
    encoder = task.tower(modality).encoder
    if kind is None and "; new: none;" not in (encoder.origin or ""):
        raise UserError(f"{key}: {folder} lacks weights: {encoder.origin}")
    task.preprocessing = dict.fromkeys((*MODALITIES, "class_names")) | {
        modality: _prepared(task, modality, folder, key=key)
    }
    return task.eval()


def _timm(folder: Path, config: dict[str, Any], *, key: str) -> dict[str, Any]:
    weights = next((folder / n for n in _TIMM_WEIGHTS if (folder / n).is_file()), None)
    if weights is None:
        raise UserError(f"{key}: {folder} has no weights ({' or '.join(_TIMM_WEIGHTS)})")
    said = config.get("model_args")
    arguments = dict(said) if isinstance(said, dict) else {}
    arguments.pop("num_classes", None)
    own = {ours: arguments.pop(name) for name, ours in _OF_TIMM.items() if name in arguments}
    name = config["architecture"]
    return {"name": name, "weights": str(weights), "kwargs": arguments or None, **own}


def _prepared(task: Features, modality: Modality, folder: Path, *, key: str) -> dict[str, Any]:
    encoder = task.tower(modality).encoder
    wanted = {n: value for n, value in encoder.preparation().items() if value is not None}
    if modality == "image":
        return asdict(follow_image(ImageSettings(), wanted))
    if modality == "audio":
        return asdict(follow_audio(AudioSettings(), wanted))
    if not has_tokenizer(folder):
        raise UserError(f"{key}: {folder} has no tokenizer (tokenizer.json); put it beside")
    tokenizer = HfTokenizer(str(folder))
    own: Any = encoder
    if tokenizer.vocab_size > own.vocab_size:
        raise UserError(
            f"{key}: the tokenizer of {folder} has {tokenizer.vocab_size} ids, but its model "
            f"embeds {own.vocab_size}: it is another model's"
        )
    longest = read_json(folder / TOKENIZER_CONFIG, key=key).get("model_max_length")
    known = [n for n in (own.max_tokens, longest) if isinstance(n, int) and n >= 3]
    return {
        "tokenizer": tokenizer.state(),
        "vocab_size": tokenizer.vocab_size,
        "max_tokens": min([*known, 512]),
        "clean": "none",
    }
