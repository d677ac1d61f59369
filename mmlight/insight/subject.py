"""One sample in one modality, and what a model says as it is changed.

Shapes as in `mmlight.batch`: B samples, N captions; R versions of a sample.
"""

from dataclasses import replace

import torch
from torch import Tensor

from mmlight.batch import Audio, Batch, Images, Text
from mmlight.encoders.canvas import Canvas
from mmlight.encoders.encoder import Encoder
from mmlight.modality import Modality
from mmlight.tasks.question import Question
from mmlight.tasks.task import Task


class Subject:
    """One sample in one modality, and the question about it; what it is made of can be changed.

    Args:
        task: the model, in evaluation mode.
        batch: a batch of this one sample.
        modality: the modality that is explained; the others stay as they are.
        question: what is asked.
        batch_size: most rows that go through the model at once.

    Attributes:
        encoder: the modality's encoder.
        canvas: what its network reads of the sample.
    """

    def __init__(
        self,
        task: Task,
        batch: Batch,
        modality: Modality,
        question: Question,
        *,
        batch_size: int = 32,
    ) -> None:
        self.batch = repeat(batch, 1)
        self.modality: Modality = modality
        self.question = question
        self.batch_size = batch_size
        self.encoder: Encoder = task.tower(modality).encoder
        self.canvas: Canvas = self.encoder.read_canvas(self.inputs)

    @property
    def inputs(self) -> Images | Text | Audio:
        """The sample in the modality that is explained."""
        inputs: Images | Text | Audio = getattr(self.batch, self.modality)
        return inputs

    def score(self, values: Tensor) -> Tensor:
        """Return the question's score (R,) of R versions of what the network reads.

        Args:
            values: (R, ...) laid out as `canvas.values`; gradients flow into them.
        """
        with self.encoder.reading(values):
            return self.question.score(repeat(self.batch, len(values)))

    @torch.no_grad()
    def confidence(self, values: Tensor) -> Tensor:
        """Return the question's confidence (R,), a few rows at a time; see `score`."""
        parts = []
        for rows in values.split(self.batch_size):
            with self.encoder.reading(rows):
                parts.append(self.question.confidence(repeat(self.batch, len(rows))))
        return torch.cat(parts)


def repeat(batch: Batch, count: int) -> Batch:
    """Return a batch of `count` copies of the first sample, each with its first caption and piece.

    Args:
        batch: a batch.
        count: number of copies B.
    """
    one = replace(batch.with_first_text().with_first_pieces(), boxes=None, bad=()).rows(0, 1)
    image, text = one.image, one.text
    if image is not None:
        image = replace(image, view=None)
    if text is not None:
        length = int(text.mask_NL.sum())  # captions of one sample are padded to its longest
        ids_NL, mask_NL = text.token_ids_NL[:, :length], text.mask_NL[:, :length]
        text = replace(text, token_ids_NL=ids_NL, mask_NL=mask_NL, offset_NL2=None)
    copies = replace(one, image=image, text=text).map(lambda t: t.repeat_interleave(count, 0))
    if copies.text is not None:
        item_N = torch.arange(count, device=copies.index_B.device)
        copies = replace(copies, text=replace(copies.text, item_N=item_N))
    return replace(
        copies,
        keys=batch.keys[:1] * count,
        captions=batch.captions[:1] * count,
        fields={name: values[:1] * count for name, values in batch.fields.items()},
    )
