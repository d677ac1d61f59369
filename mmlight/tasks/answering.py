"""Answers questions about an image or a sound out of a list of answers.

Shapes as in `mmlight.batch`: B samples, N questions (usually B in evaluation), K answers.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmlight.batch import Batch
from mmlight.class_names import shown_names
from mmlight.errors import UserError
from mmlight.metrics.answered import answer_key, answer_scores, usual_answer
from mmlight.metrics.labelled import LabelledEvaluation, label_scores
from mmlight.tasks.classification import Classification
from mmlight.tasks.evaluation import Column, Kept, Rows, Scored, Stage, Table, sample_columns
from mmlight.tasks.pooled import Features
from mmlight.tasks.tower import Towers


@dataclass(frozen=True)
class Questions:
    """What is asked and answered in a batch.

    Attributes:
        sample_N: int64, the row of the batch that each question is about.
        answers: what people answered to each; empty where nobody did.
    """

    sample_N: Tensor
    answers: list[list[str]]


def questions_of(batch: Batch) -> Questions:
    """Return the questions of a batch, its texts, with their answers.

    Raises:
        UserError: the data has no questions.
    """
    text = batch.text
    if text is None:
        raise UserError(
            "the data has no questions; name their member in data.members.text, such as "
            "json:question, and that of their answers in data.members.answer"
        )
    of_sample = text.item_N.tolist()
    answers: list[list[str]] = [[] for _ in of_sample]
    if batch.answer is not None:
        there = zip(
            batch.answer.item_N.tolist(),
            batch.answer.present_N.tolist(),
            batch.answers,
            strict=True,
        )
        rows = [(item, answer) for item, is_there, answer in there if is_there]
        if len(of_sample) == batch.size:  # one question each, and any number of answers
            for item, answer in rows:
                answers[item].append(answer)
        else:
            paired = [item for item, _ in rows] == of_sample
            if not paired:
                raise UserError(
                    "samples have several questions, and not an answer to each; set "
                    "data.members.paired_answers, or write a sample for each question"
                )
            answers = [[answer] for _, answer in rows]
    return Questions(text.item_N, answers)


class Answering(Classification):
    """Visual or spoken question answering as classification over answers (arXiv 1505.00468).

    Questions are the data's text and `data.members.answer` their answers; `data.class_names` lists
    those that the model can give, such as the 3,129 commonest ones of VQA. Training leaves out
    questions whose answer is none of them; evaluation counts them as wrong. An image that
    `data.text.captions_per_sample` questions are asked about is encoded once.

    Scores are ``accuracy`` (what most people said), ``vqa_accuracy`` where questions have several
    answers, and each type's, ``count/accuracy``, by the field `type_field`.

    Args:
        towers: text, for the questions, and image, audio or both.
        type_field: the field of the data that holds a question's type.
        settings: `fusion`, `head`, `objective`, and those of every task; see
            `mmlight.tasks.classification.Classification`.

    Raises:
        UserError: towers without questions, or without what they are about.
    """

    takes_captions = True

    def __init__(self, *, towers: Towers, type_field: str = "type", **settings: Any) -> None:
        super().__init__(towers=towers, **settings)
        names = list(towers.given())
        if "text" not in names or len(names) < 2:
            named = ", ".join(names) or "none"
            raise UserError(
                f"model.towers names {named}; answering takes text, for the questions, and image "
                "or audio, which they are about"
            )
        if self.label_field is not None or self.votes or self.mixing is not None:
            raise UserError(
                "model.label_field, votes and mixing are for classification; the answers of "
                "answering are data.members.answer"
            )
        self.type_field = type_field
        self._numbers: dict[str, int] | None = None

    def features(self, batch: Batch) -> Features:
        """Encode each image or sound once, and repeat it for each question about it."""
        found = self.encoded(batch)
        if batch.text is None or batch.text.item_N.shape[0] == batch.size:
            return found
        item_N = batch.text.item_N
        return {
            name: parts
            if name == "text"
            else (parts[0][item_N], parts[1][item_N], parts[2][item_N])
            for name, parts in found.items()
        }

    def labels(self, batch: Batch) -> Tensor:
        """Return the number of each question's usual answer (N,), -1 where it is not listed."""
        if batch.answer is None:
            raise UserError(
                "the data has no answers; name their member in data.members.answer, such as "
                "json:answer"
            )
        numbers = self._answer_numbers()
        known = [
            numbers.get(usual_answer(of_one), -1) if of_one else -1
            for of_one in questions_of(batch).answers
        ]
        return torch.tensor(known, device=batch.index_B.device)

    def keep(self, batch: Batch) -> Kept:
        """Keep the scores of all answers, and what people answered."""
        asked = questions_of(batch)
        rows = asked.sample_N.tolist()
        of_samples = sample_columns(batch)
        columns: dict[str, Column] = {
            "logits": self.logits(batch).float(),
            "label": self.labels(batch),
            "answers": asked.answers,
        }
        columns |= {name: [column[row] for row in rows] for name, column in of_samples.items()}
        return Kept({"questions": Rows(columns, row_N=asked.sample_N)})

    def score(self, tables: dict[str, Table], *, stage: Stage) -> Scored:
        """Score the answers of the whole set, in all and by type."""
        table = tables["questions"]
        evaluation = LabelledEvaluation(
            stage=stage,
            samples_S=table.sample_N.numpy(),
            keys=table["key"],
            logits_SK=table["logits"].numpy(),
            labels_S=table["label"].numpy(),
            class_names=shown_names(self.class_names),
            fields=table.fields(),
        )
        names = self.class_names
        said = [names[number] for number in table["logits"].argmax(1).tolist()]
        types = table.fields().get(self.type_field, [])
        listed = label_scores(evaluation)  # of questions whose answer the model can give
        return Scored(listed | answer_scores(said, table["answers"], types), evaluation)

    def score_names(self) -> None:  # type: ignore[override]
        """Return None: the data's types name some of the scores."""

    def answers(self, tables: dict[str, Table]) -> tuple[Tensor, Tensor]:
        """Return logits (S, K) and class numbers (S,) of questions with a listed answer."""
        table = tables["questions"]
        known_S = table["label"] >= 0
        return table["logits"][known_S], table["label"][known_S]

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return for each sample its (first) question, the answer, and how probable it is."""
        batch = batch.with_first_text()
        chance_BK = self.probabilities(batch)
        best = chance_BK.detach().max(1)
        chances, numbers = best.values.tolist(), best.indices.tolist()
        names = self.class_names
        return [
            {
                "key": batch.keys[row],
                "question": batch.captions[row] if batch.captions else "",
                "answer": names[numbers[row]],
                "probability": chances[row],
            }
            for row in batch.valid_B.nonzero()[:, 0].tolist()
        ]

    def build(self) -> None:
        """Create towers, fusion, head and objective.

        Raises:
            UserError: the data does not list the answers.
        """
        if not self.class_names:
            raise UserError(
                "data.class_names is not set; answering needs the answers that it may give, a "
                "file with one per line"
            )
        super().build()

    def _answer_numbers(self) -> dict[str, int]:
        if self._numbers is None:
            self._numbers = {answer_key(name): n for n, name in enumerate(self.class_names)}
        return self._numbers
