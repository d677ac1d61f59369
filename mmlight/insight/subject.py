"""What is explained: one sample in one modality, and a number that the model says about it.

Shapes as in `mmlight.batch`: B samples, N captions, K classes.
"""

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from mmlight.batch import MODALITIES, Audio, Batch, Images, Modality, Text
from mmlight.encoders.canvas import Canvas, read_canvas, replaced
from mmlight.encoders.encoder import Encoder
from mmlight.errors import UserError
from mmlight.tasks.classification import Classification
from mmlight.tasks.contrastive import Contrastive
from mmlight.tasks.task import Task


class Question(Protocol):
    """What is asked about a sample; higher is more.

    Attributes:
        about: the answer that is explained, in words.
    """

    about: str

    def score(self, batch: Batch) -> Tensor:
        """Return (B,) numbers with gradients, which attributions share out."""
        ...

    def confidence(self, batch: Batch) -> Tensor:
        """Return (B,) numbers that deletion and insertion follow."""
        ...


class ClassQuestion:
    """How sure a classifier is of one class: its logit, and its probability.

    Args:
        task: the classifier.
        number: the class.
        name: what the class is called.
    """

    def __init__(self, task: Classification, number: int, *, name: str) -> None:
        self._task = task
        self._number = number
        self.about = name

    def score(self, batch: Batch) -> Tensor:
        """Return the class's logits (B,)."""
        return self._task.logits(batch).float()[:, self._number]

    def confidence(self, batch: Batch) -> Tensor:
        """Return the class's probabilities (B,)."""
        logits_BK = self._task.logits(batch).float()
        multi = self._task.objective.multi_label
        chances_BK = logits_BK.sigmoid() if multi else logits_BK.softmax(1)
        return chances_BK[:, self._number]


class PairQuestion:
    """How similar a contrastive model finds a sample in two modalities: their cosine.

    Args:
        task: the model.
        modality: the modality that is explained.
        partner: the one it is compared with, which stays as it is.
    """

    def __init__(self, task: Contrastive, modality: Modality, partner: Modality) -> None:
        self._task = task
        self._modality = modality
        self._partner = partner
        self.about = f"its {partner}"

    def score(self, batch: Batch) -> Tensor:
        """Return the cosine similarities (B,)."""
        ours_BD = self._task.encode(self._modality, getattr(batch, self._modality))
        with torch.no_grad():
            theirs_BD = self._task.encode(self._partner, getattr(batch, self._partner))
        return (ours_BD * theirs_BD).sum(1)

    confidence = score


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
        self.canvas: Canvas = read_canvas(self.encoder, self.inputs)

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
        with replaced(self.encoder, values):
            return self.question.score(repeat(self.batch, len(values)))

    @torch.no_grad()
    def confidence(self, values: Tensor) -> Tensor:
        """Return the question's confidence (R,), a few rows at a time; see `score`."""
        parts = []
        for rows in values.split(self.batch_size):
            with replaced(self.encoder, rows):
                parts.append(self.question.confidence(repeat(self.batch, len(rows))))
        return torch.cat(parts)


def repeat(batch: Batch, count: int) -> Batch:
    """Return a batch of `count` copies of the first sample, each with its first caption.

    Args:
        batch: a batch.
        count: number of copies B.
    """
    first = torch.zeros(count, dtype=torch.int64, device=batch.index_B.device)
    image, text, audio = batch.image, batch.text, batch.audio
    if image is not None:
        image = Images(image.pixels_BCHW[first], image.present_B[first])
    if text is not None:
        length = int(text.mask_NL[0].sum())  # captions of one sample are padded to its longest
        text = Text(
            token_ids_NL=text.token_ids_NL[first, :length],
            mask_NL=text.mask_NL[first, :length],
            present_N=text.present_N[first],
            item_N=torch.arange(count, device=first.device),
            caption_id_N=text.caption_id_N[first],
        )
    if audio is not None:
        audio = Audio(audio.waveform_BT[first], audio.length_B[first], audio.present_B[first])
    return replace(
        batch,
        index_B=batch.index_B[first],
        keys=batch.keys[:1] * count,
        valid_B=batch.valid_B[first],
        image=image,
        text=text,
        audio=audio,
        label_B=None if batch.label_B is None else batch.label_B[first],
        boxes=None,
        captions=batch.captions[:1] * count,
        fields={name: values[:1] * count for name, values in batch.fields.items()},
        bad=(),
    )


def partner_of(task: Task, modality: Modality) -> Modality:
    """Return what a modality is compared with: text where there is a text tower, else the next."""
    others: list[Modality] = [m for m in MODALITIES if m in task.tower_settings.given()]
    others.remove(modality)
    return "text" if "text" in others else others[0]


def check_task(task: object) -> None:
    """Raise UserError for a task of which nothing can be asked here."""
    if not isinstance(task, Classification | Contrastive):
        raise UserError(
            f"explain: answers of a {type(task).__name__} cannot be explained; the model must be "
            "a Classification or a Contrastive"
        )
