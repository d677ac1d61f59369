"""Inputs on which exported graphs are compared with the task: noise, and what looks real.

Shapes as in `mmlight.batch`: B samples, C channels, H, W pixels, L tokens, T waveform samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mmlight.batch import Batch
from mmlight.errors import UserError
from mmlight.tasks.graph import Graph
from mmlight.text.saved_tokenizer import tokenizer_from_state

Look = Literal["noise", "smooth"]

# Said of many things, so that some of the words are in any vocabulary.
_SENTENCES = (
    "a red circle above a small blue star",
    "the film is slow at first , but it wins you over",
    "who was the first person to cross the sea ?",
    "three",
    "Anna flew from Paris to New York on Monday with two dogs and a cello",
)


@dataclass(frozen=True)
class Sizes:
    """Sizes of the inputs.

    Attributes:
        batch: samples B.
        part: how long texts and clips are, as a part of the longest that the data allows.
    """

    batch: int
    part: float


def make_inputs(
    graph: Graph, preprocessing: dict[str, Any], *, sizes: Sizes, look: Look, seed: int
) -> tuple[Tensor, ...]:
    """Return inputs of a graph.

    Args:
        graph: whose inputs.
        preprocessing: how the task's data is prepared.
        sizes: how many and how long.
        look: uniform noise throughout, or gradients, tones and sentences.
        seed: of what is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}
    if "pixels" in graph.inputs:
        made |= _image(preprocessing["image"], sizes, look, generator)
    if "token_ids" in graph.inputs:
        made |= _text(preprocessing["text"], sizes, look, generator)
    if "waveform" in graph.inputs:
        made |= _audio(preprocessing["audio"], sizes, look, generator)
    present = [name for name in graph.inputs if name.endswith("_present")]
    for number, name in enumerate(present):
        # The last sample of a batch lacks all but the first modality.
        lacks = torch.arange(sizes.batch) == sizes.batch - 1
        made[name] = ~lacks if number and sizes.batch > 1 else torch.ones_like(lacks)
    return tuple(made[name] for name in graph.inputs)


def inputs_of_batch(graph: Graph, batch: Batch) -> tuple[Tensor, ...]:
    """Return a graph's inputs out of a batch of real samples.

    Raises:
        UserError: the batch lacks what the graph takes.
    """
    found: dict[str, Tensor] = {}
    batch = batch.with_first_pieces()
    if batch.image is not None:
        found |= {"pixels": batch.image.pixels_BCHW, "image_present": batch.image.present_B}
        if batch.image.view is not None:
            found["area"] = batch.image.view.area_B2
    if batch.text is not None:
        found |= {
            "token_ids": batch.text.token_ids_NL,
            "token_mask": batch.text.mask_NL,
            "text_present": batch.text.present_N,
        }
    if batch.audio is not None:
        found |= {
            "waveform": batch.audio.waveform_BT,
            "num_samples": batch.audio.length_B,
            "audio_present": batch.audio.present_B,
        }
    missing = [name for name in graph.inputs if name not in found]
    if missing:
        raise UserError(f"--samples: they hold nothing for the input {missing[0]}")
    return tuple(found[name] for name in graph.inputs)


def _image(
    settings: dict[str, Any], sizes: Sizes, look: Look, generator: torch.Generator
) -> dict[str, Tensor]:
    side = int(settings["size"])
    if settings.get("eval_crop") == "fit":
        side = -(-side // 32) * 32  # as `mmlight.data.collate` pads
    shape = (sizes.batch, int(settings["channels"]), side, side)
    if look == "noise":
        pixels_BCHW = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    else:
        ramp_S = torch.linspace(0, 255, side)
        tilt_BC11 = torch.rand(shape[:2], generator=generator)[..., None, None]
        pixels_BCHW = (tilt_BC11 * ramp_S + (1 - tilt_BC11) * ramp_S[:, None]).to(torch.uint8)
        pixels_BCHW[:, :, side // 4 : side // 2, side // 3 : 2 * side // 3] = 230
    area_B2 = torch.full((sizes.batch, 2), side)
    area_B2[-1, 0] = max(1, side * 3 // 4)
    if settings.get("eval_crop") == "fit":
        pixels_BCHW[-1, :, int(area_B2[-1, 0]) :] = 0
    return {"pixels": pixels_BCHW, "area": area_B2}


def _text(
    settings: dict[str, Any], sizes: Sizes, look: Look, generator: torch.Generator
) -> dict[str, Tensor]:
    length = max(2, round(int(settings["max_tokens"]) * sizes.part))
    if look == "smooth":
        tokenizer = tokenizer_from_state(settings["tokenizer"])
        texts: Sequence[str] = [_SENTENCES[n % len(_SENTENCES)] for n in range(sizes.batch)]
        encoding = tokenizer.encode_batch(texts, max_tokens=length)
        return {
            "token_ids": torch.from_numpy(encoding.ids_NL),
            "token_mask": torch.from_numpy(encoding.mask_NL),
        }
    shape = (sizes.batch, length)
    ids_NL = torch.randint(0, int(settings["vocab_size"]), shape, generator=generator)
    real_N = torch.randint(1, length + 1, (sizes.batch, 1), generator=generator)
    real_N[0] = length
    return {"token_ids": ids_NL, "token_mask": torch.arange(length) < real_N}


def _audio(
    settings: dict[str, Any], sizes: Sizes, look: Look, generator: torch.Generator
) -> dict[str, Tensor]:
    rate = int(settings["sample_rate_hz"])
    length = max(1, round(settings["max_seconds"] * rate * sizes.part))
    if look == "noise":
        wave_BT = 0.2 * torch.randn((sizes.batch, length), generator=generator)
    else:
        time_T = torch.arange(length) / rate
        pitch_B1 = 100 + 300 * torch.rand((sizes.batch, 1), generator=generator)
        beats_T = torch.sin(2 * torch.pi * 3 * time_T).clamp(min=0)
        wave_BT = 0.4 * beats_T * torch.sin(2 * torch.pi * pitch_B1 * (1 + 0.2 * time_T) * time_T)
    real_B = torch.randint(max(1, length // 3), length + 1, (sizes.batch,), generator=generator)
    real_B[0] = length
    wave_BT = wave_BT.clamp(-1, 1) * (torch.arange(length) < real_B[:, None])
    return {"waveform": wave_BT, "num_samples": real_B}
