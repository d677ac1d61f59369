"""Tasks as functions of plain tensors, which is what ONNX and `torch.export` know.

Shapes as in `mmlight.batch`: B samples, N texts, L tokens, T waveform samples.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from mmlight.batch import Audio, Batch, Images, Modality, Text, View
from mmlight.errors import UserError
from mmlight.heads.dense_boxes import DenseOutputs
from mmlight.tasks.classification import Classification
from mmlight.tasks.contrastive import Contrastive
from mmlight.tasks.detection import Detection
from mmlight.tasks.regression import Regression
from mmlight.tasks.tagging import Tagging
from mmlight.tasks.task import Task
from mmlight.tasks.transcription import Transcription

# Named axes of each input; others have a fixed size.
AXES: dict[str, tuple[str, ...]] = {
    "pixels": ("batch",),
    "area": ("batch",),
    "token_ids": ("batch", "tokens"),
    "token_mask": ("batch", "tokens"),
    "waveform": ("batch", "samples"),
    "num_samples": ("batch",),
    "image_present": ("batch",),
    "text_present": ("batch",),
    "audio_present": ("batch",),
}
_OF_MODALITY: dict[Modality, tuple[str, ...]] = {
    "image": ("pixels",),
    "text": ("token_ids", "token_mask"),
    "audio": ("waveform", "num_samples"),
}
# What each input and output is, for the model card.
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
    "features": "float32, of unit length: a dot product is the cosine similarity",
    "logits": "float32, before softmax (one label) or sigmoid (several)",
    "tag_logits": "float32, for each token; a word's tag is that of its first token",
    "frame_logits": "float32, for each frame; CTC, the blank is the last class",
    "num_frames": "int64, real frames of each clip; they come first",
    "boxes": "float32 corners (left, top, right, bottom) in pixels of the padded image",
    "class_scores": "float32 from 0 to 1, of each box for each class; low ones are to be dropped",
}


class Graph(nn.Module):
    """A task, or a part of one, that takes and returns tensors by position.

    Args:
        part: the module whose parameters it uses; files hold no others.
        name: names the file.
        function: takes the task's batch and returns the outputs.
        inputs: names of the inputs, out of `AXES`.
        outputs: names of the outputs, out of `MEANINGS`.
        unordered: the second axis of the outputs has no order of its own: queries stand in the
            order of scores that rounding may swap.
    """

    def __init__(
        self,
        part: nn.Module,
        *,
        name: str,
        function: Callable[[Batch], tuple[Tensor, ...]],
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        unordered: bool = False,
    ) -> None:
        super().__init__()
        self.part = part
        self.unordered = unordered
        self.name = name
        self.function = function
        self.inputs, self.outputs = inputs, outputs

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


def graphs_of(task: Task) -> list[Graph]:
    """Return what of a task can be exported, in evaluation mode and without gradients.

    Raises:
        UserError: a task that is no function of tensors to tensors.
    """
    return [graph.eval().requires_grad_(False) for graph in _graphs(task)]


def _graphs(task: Task) -> list[Graph]:
    given = tuple(task.tower_settings.given())
    if isinstance(task, Contrastive):
        return [
            Graph(
                task.tower(modality),
                name=modality,
                function=_features(task, modality),
                inputs=_OF_MODALITY[modality],
                outputs=("features",),
            )
            for modality in given
        ]
    inputs = tuple(name for modality in given for name in _OF_MODALITY[modality])
    if len(given) > 1:
        inputs += tuple(f"{modality}_present" for modality in given)
    if isinstance(task, Classification):
        return [_whole(task, inputs, ("logits",), lambda batch: (task.logits(batch),))]
    if isinstance(task, Regression):
        return [_whole(task, inputs, ("values",), lambda batch: (task.values(batch),))]
    if isinstance(task, Tagging):
        return [_whole(task, inputs, ("tag_logits",), lambda batch: (task.logits(_text(batch)),))]
    if isinstance(task, Transcription):
        return [_whole(task, inputs, ("frame_logits", "num_frames"), _emissions(task))]
    if isinstance(task, Detection):
        return [
            Graph(
                task,
                name="model",
                function=_boxes(task),
                inputs=("pixels", "area"),
                outputs=("boxes", "class_scores"),
                unordered=task.head.kind == "query",
            )
        ]
    raise UserError(f"a {type(task).__name__} task has no graph to export; its weights are")


def _whole(
    task: Task,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    function: Callable[[Batch], tuple[Tensor, ...]],
) -> Graph:
    return Graph(task, name="model", function=function, inputs=inputs, outputs=outputs)


def _features(task: Contrastive, modality: Modality) -> Callable[[Batch], tuple[Tensor, ...]]:
    return lambda batch: (task.encode(modality, getattr(batch, modality)),)


def _emissions(task: Transcription) -> Callable[[Batch], tuple[Tensor, ...]]:
    def function(batch: Batch) -> tuple[Tensor, ...]:
        assert batch.audio is not None
        found = task.emissions(batch.audio)
        return found.logits_BLK, found.frames_B

    return function


def _boxes(task: Detection) -> Callable[[Batch], tuple[Tensor, ...]]:
    def function(batch: Batch) -> tuple[Tensor, ...]:
        assert batch.image is not None
        outputs = task.detect(batch.image)
        if isinstance(outputs, DenseOutputs):
            quality_BA1 = outputs.quality_BA.sigmoid()[..., None]
            score_BAK = (outputs.logit_BAK.sigmoid() * quality_BA1).sqrt()
            return outputs.xyxy_BA4, score_BAK.masked_fill(~outputs.real_BA[..., None], 0)
        logit_BQK, box_BQ4 = outputs.layers[-1]
        height, width = outputs.canvas
        xyxy_BQ4 = box_convert(box_BQ4.float(), "cxcywh", "xyxy")
        scale_4 = torch.tensor([width, height, width, height], dtype=torch.float32)
        return xyxy_BQ4 * scale_4, logit_BQK.float().sigmoid()

    return function


def _text(batch: Batch) -> Text:
    assert batch.text is not None
    return batch.text
