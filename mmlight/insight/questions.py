"""What is asked about a sample: how sure a classifier is, how similar a pair.

Shapes as in `mmlight.batch`: B samples, K classes, D joint width.
"""

from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from mmlight.batch import MODALITIES, Batch, Modality
from mmlight.class_names import shown_names
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


@torch.no_grad()
def question_of(
    task: Task, batch: Batch, modality: Modality, *, target: Literal["predicted", "true"]
) -> Question | None:
    """Return what is asked about one sample, or None where there is nothing to ask.

    Args:
        task: a model that `check_task` lets pass.
        batch: a batch of the sample.
        modality: the modality that is explained.
        target: a classifier's answer: the class that it predicts or, of several, is surest of; or
            the true one, of several the first.
    """
    if isinstance(task, Contrastive):
        partner = partner_of(task, modality)
        if getattr(batch, partner) is None or not bool(batch.present(partner)[0]):
            return None
        return PairQuestion(task, modality, partner)
    assert isinstance(task, Classification)
    number = int(task.logits(batch)[0].argmax())
    if target == "true":
        labels = task.labels(batch)[0]
        if bool((labels < 0).any()) or (labels.ndim and not bool(labels.any())):
            return None
        number = int(labels if labels.ndim == 0 else labels.argmax())
    return ClassQuestion(task, number, name=_class_name(task, number))


def truth_of(task: Task, batch: Batch, modality: Modality) -> str:
    """Return what is right for one sample, or the text that it is compared with; may be empty.

    Args:
        task: the model.
        batch: a batch of the sample.
        modality: the modality that is explained.
    """
    if not isinstance(task, Classification):
        return batch.captions[0] if modality != "text" and batch.captions else ""
    if batch.label_B is None and task.label_field is None:
        return ""
    labels = task.labels(batch)[0]
    numbers = [int(labels)] if labels.ndim == 0 else labels.clamp(min=0).nonzero()[:, 0].tolist()
    names = [_class_name(task, number) for number in numbers if number >= 0]
    return f"is {', '.join(names)}" if names else ""


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


def _class_name(task: Any, number: int) -> str:
    return shown_names(task.class_names)[number] if task.class_names else f"class {number}"
