"""Whether towers and data fit together, before anything is trained."""

from typing import Any

from mmlight.batch import Modality
from mmlight.errors import UserError


def check_tower_fits(encoder: Any, preprocessing: dict[str, Any]) -> None:
    """Raise UserError where the data's settings and an encoder disagree.

    Args:
        encoder: an encoder of `mmlight.encoders`.
        preprocessing: what the data module says of itself: plain settings by modality, or None
            for a modality that the data lacks.
    """
    modality: Modality = encoder.modality
    settings = preprocessing.get(modality)
    where = f"model.towers.{modality}"
    if settings is None:
        raise UserError(
            f"{where} is set, but the data has no {modality}; name the member in "
            f"data.members.{modality}, or leave the tower out"
        )
    if modality == "text":
        have, need = int(encoder.vocab_size), int(settings["vocab_size"])
        if need > have:
            raise UserError(
                f"{where}.encoder has an embedding table of {have} tokens, but the tokenizer "
                f"gives {need}; set its vocab_size to {need} or more"
            )
        limit = getattr(encoder, "max_tokens", None)
        if limit is not None and settings["max_tokens"] > limit:
            raise UserError(
                f"data.text.max_tokens is {settings['max_tokens']}, but {where}.encoder has "
                f"positions for {limit}; lower the first or raise the second"
            )
    if modality == "audio" and settings["sample_rate_hz"] != encoder.sample_rate_hz:
        raise UserError(
            f"data.audio.sample_rate_hz is {settings['sample_rate_hz']}, but {where}.encoder "
            f"wants {encoder.sample_rate_hz}; set the first to {encoder.sample_rate_hz}"
        )
    if modality == "image":
        channels = getattr(encoder, "in_chans", settings["channels"])
        if settings["channels"] != channels:
            raise UserError(
                f"data.image.channels is {settings['channels']}, but {where}.encoder takes "
                f"{channels} (in_chans); make them equal"
            )
