"""Tasks as functions of plain tensors, which is what ONNX and `torch.export` know.

Shapes as in `mmlight.batch`: B samples, N texts, L tokens, T waveform samples.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmlight.batch import Audio, Batch, Images, Text, View
from mmlight.modality import Modality

INPUTS: dict[Modality, tuple[str, ...]] = {
    "image": ("pixels",),
    "text": ("token_ids", "token_mask"),
    "audio": ("waveform", "num_samples"),
}
# What each input is, for the model card.
MEANINGS: dict[str, str] = {
    "pixels": "uint8, as decoded; the graph normalises them",
    "area": "int64, height and width of the real pixels; the rest, right and below, is zero",
    "token_ids": "int64, padded on the right with the tokenizer's padding id",
    "token_mask": "bool, true for real tokens",
    "waveform": "float32 in [-1, 1], mono, padded on the right with zeros",
    "num_samples": "int64, real samples of each clip",
    "image_present": "bool, false where the sample has no image",
    "text_present": "bool, false where the sample has no text",
    "audio_present": "bool, false where the sample has no sound",
}
# Named axes of each input; others have a fixed size.
_SECOND_AXES = {"token_ids": "tokens", "token_mask": "tokens", "waveform": "samples"}
AXES = {
    name: ("batch", _SECOND_AXES[name]) if name in _SECOND_AXES else ("batch",) for name in MEANINGS
}
LOGITS = "float32, before softmax (one label) or sigmoid (several)"
NUMBERS = "float32, in the units of the data"


class Graph(nn.Module):
    """A task, or a part of one, that takes and returns tensors by position.

    Args:
        part: the module whose parameters it uses; files hold no others.
        name: names the file.
        function: takes the task's batch and returns the outputs.
        inputs: names of the inputs, out of `AXES`.
        outputs: what each output is, by its name; in their order.
        unordered: the second axis of the outputs has no order of its own: queries stand in the
            order of scores that rounding may swap.
    """

    def __init__(
        self,
        part: nn.Module,
        *,
        name: str,
        function: Callable[[Batch], tuple[Tensor, ...]],
        inputs: Sequence[str],
        outputs: Mapping[str, str],
        unordered: bool = False,
    ) -> None:
        super().__init__()
        self.part = part
        self.unordered = unordered
        self.name = name
        self.function = function
        self.inputs, self.outputs = tuple(inputs), dict(outputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs, in the order of `outputs`."""
        return self.function(batch_of(dict(zip(self.inputs, tensors, strict=True))))


def batch_of(tensors: dict[str, Tensor]) -> Batch:
    """Return the batch that these inputs make; its fields that are not tensors are empty."""
    first = next(iter(tensors.values()))
    rows_B = torch.arange(first.shape[0], device=first.device)
    here_B = torch.ones_like(rows_B, dtype=torch.bool)
    image = text = audio = None
    if "pixels" in tensors:
        view = None
        if "area" in tensors:
            whole_B4 = first.new_tensor([1, 1, 0, 0], dtype=torch.float32).expand(first.shape[0], 4)
            view = View(tensors["area"], tensors["area"], whole_B4)
        image = Images(tensors["pixels"], tensors.get("image_present", here_B), view)
    if "token_ids" in tensors:
        text = Text(
            token_ids_NL=tensors["token_ids"],
            mask_NL=tensors["token_mask"],
            present_N=tensors.get("text_present", here_B),
            item_N=rows_B,
            caption_id_N=rows_B,
        )
    if "waveform" in tensors:
        audio = Audio(
            tensors["waveform"], tensors["num_samples"], tensors.get("audio_present", here_B)
        )
    return Batch(rows_B, [], 0, 0, here_B, image=image, text=text, audio=audio)


def whole_graph(
    task: Any, outputs: Mapping[str, str], function: Callable[[Batch], tuple[Tensor, ...]]
) -> Graph:
    """Return the graph of a whole task, whose inputs are those of its towers.

    Args:
        task: the task.
        outputs: see `Graph`.
        function: see `Graph`.
    """
    given = tuple(task.tower_settings.given())
    inputs = [name for modality in given for name in INPUTS[modality]]
    if len(given) > 1:
        inputs += [f"{modality}_present" for modality in given]
    return Graph(task, name="model", function=function, inputs=inputs, outputs=outputs)
