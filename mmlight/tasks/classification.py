"""Classification from an image, a text, a sound, or any set of them.

Shapes as in `mmlight.batch`: B samples, L tokens, D feature width, K classes.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlight.batch import Batch
from mmlight.class_names import class_numbers, shown_names
from mmlight.errors import UserError
from mmlight.metrics.labelled import (
    MULTI_LABEL_SCORES,
    ONE_LABEL_SCORES,
    LabelledEvaluation,
    label_scores,
)
from mmlight.modality import Modality
from mmlight.objectives.labels import CrossEntropy, LabelObjective
from mmlight.objectives.objective import Loss
from mmlight.tasks.evaluation import Kept, Rows, Scored, Stage, Table, sample_columns
from mmlight.tasks.graph import LOGITS, Graph, whole_graph
from mmlight.tasks.mixing import Mixing
from mmlight.tasks.pictures import ShownSamples, draw_labelled
from mmlight.tasks.pooled import Features, PooledTask
from mmlight.tasks.question import Question
from mmlight.tasks.task import Target
from mmlight.tasks.tower import Towers, has_pieces


class Classification(PooledTask):
    """Gives each sample one class, or any number of them.

    Several towers are joined by a fusion, which samples that lack a modality pass too; evaluation
    then scores every subset of the modalities, as ``val/image_text/accuracy``.

    Args:
        towers: the encoders; one or more.
        num_classes: K; None takes the number of the data's `class_names`.
        objective: `mmlight.objectives.labels.CrossEntropy` for one class per sample,
            `BinaryCrossEntropy` for any number.
        label_field: the field of the data that lists a sample's class numbers or names, for
            several labels; one class per sample is in the data's `label`.
        mixing: mixup and CutMix in training; None is off.
        votes: answer for each token of the one tower (a segment, a frame): training takes the loss
            of each, and a sample has the mean of their probabilities.
        settings: `fusion`, `head`, and those of every task; see `mmlight.tasks.pooled.PooledTask`.

    Raises:
        UserError: settings that contradict each other or do not fit the data.
    """

    explained_targets = ("predicted", "true")
    has_mistakes = True

    def __init__(
        self,
        *,
        towers: Towers,
        num_classes: int | None = None,
        objective: Callable[[], LabelObjective] = CrossEntropy,
        label_field: str | None = None,
        mixing: Mixing | None = None,
        votes: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(towers=towers, **settings)
        names = list(towers.given())
        if mixing is not None and "text" in names:
            raise UserError("model.mixing: texts cannot be mixed; leave it out")
        if mixing is not None and mixing.cutmix_alpha and names != ["image"]:
            raise UserError("model.mixing.cutmix_alpha: only images are cut; use mixup_alpha")
        if votes and len(names) > 1:
            raise UserError(f"model.votes: tokens of one tower vote, not of {' and '.join(names)}")
        if votes and label_field is not None:
            raise UserError("model.votes: are for one class per sample; leave out label_field")
        self.votes = votes
        self._num_classes = num_classes
        self._make_objective = objective
        self.label_field = label_field
        self.mixing = mixing

    @property
    def class_names(self) -> list[str]:
        """The data's names of the classes; empty where it has none."""
        return list((self.preprocessing or {}).get("class_names") or [])

    @property
    def num_classes(self) -> int:
        """K."""
        names = self.class_names
        if self._num_classes is None and not names:
            raise UserError(
                "model.num_classes is not set, and the data has no class_names; give it the path "
                "of a file with one name per line, such as the classnames.txt that packing writes"
            )
        if self._num_classes is not None and names and self._num_classes != len(names):
            raise UserError(
                f"model.num_classes is {self._num_classes}, but the data has {len(names)} class "
                "names; leave it out"
            )
        return self._num_classes or len(names)

    def build(self) -> None:
        """Create towers, fusion, head and objective."""
        self.build_pooled(out_dim=self.num_classes)
        if self.votes:
            for name in self.tower_settings.given():
                self.tower(name).encoder.leave_out_pooling()
        self.objective = self._make_objective()
        if self.objective.multi_label != (self.label_field is not None):
            raise UserError(
                "model.label_field: names the field of several labels, so it goes with the "
                "objective mmlight.objectives.labels.BinaryCrossEntropy, and only with it"
            )
        counts_K = None
        data = self.datamodule
        if data is not None and hasattr(data, "check_classes"):
            data.check_classes(self.num_classes, field=self.label_field)
            if self.objective.needs_counts and self.trainer.state.fn == "fit":
                counts_K = data.label_counts("train", self.num_classes, field=self.label_field)
        self.objective.build(self.num_classes, counts_K=counts_K)

    def check_pieces(self, data: Any) -> None:
        """Refuse to mix samples of several images or sounds."""
        super().check_pieces(data)
        windows = getattr(getattr(data, "audio", None), "windows", None)
        is_several = has_pieces(data, "image") or getattr(windows, "training", False)
        if self.mixing is not None and is_several:
            raise UserError("model.mixing: samples of several frames or windows can't be mixed")

    @property
    def takes_tokens(self) -> bool:
        """Whether tokens vote, or a fusion reads them."""
        return self.votes or super().takes_tokens

    def head_outputs(
        self, features: Features, *, only: tuple[Modality, ...] | None = None
    ) -> Tensor:
        """Return the head's outputs (B, K); of votes the logarithm of their mean probability."""
        if not self.votes:
            return super().head_outputs(features, only=only)
        ((tokens_BLD, mask_BL, _),) = features.values()
        chances_BLK = self.head(tokens_BLD).float().log_softmax(2)
        chances_BLK = chances_BLK.masked_fill(~mask_BL.unsqueeze(2), float("-inf"))
        return chances_BLK.logsumexp(1) - mask_BL.sum(1, keepdim=True).log()

    def logits(self, batch: Batch) -> Tensor:
        """Return logits (B, K) of a batch, with gradients."""
        return self.head_outputs(self.features(batch))

    def probabilities(self, batch: Batch) -> Tensor:
        """Return the probability of each class (B, K)."""
        logits_BK = self.logits(batch).float()
        return logits_BK.sigmoid() if self.objective.multi_label else logits_BK.softmax(1)

    def labels(self, batch: Batch) -> Tensor:
        """Return class numbers (B,), -1 without one; with several labels targets (B, K) of 0, 1.

        Raises:
            UserError: the data has no labels, or one that is no class.
        """
        if self.label_field is not None:
            if self.label_field not in batch.fields:
                raise UserError(
                    f"model.label_field: the data has no field '{self.label_field}'; name it in "
                    f"data.members.fields, such as {{{self.label_field}: json:labels}}"
                )
            rows = [
                self._targets(value, key)
                for value, key in zip(batch.fields[self.label_field], batch.keys, strict=True)
            ]
            return torch.tensor(rows, device=batch.index_B.device)
        if batch.label_B is None:
            raise UserError("the data has no labels; name the member in data.members.label")
        if self.may_read(batch.label_B) and int(batch.label_B.max()) >= self.num_classes:
            row = int(batch.label_B.argmax())
            raise UserError(
                f"sample {batch.keys[row]} has label {int(batch.label_B[row])}, but there are "
                f"{self.num_classes} classes (labels count from 0)"
            )
        return batch.label_B

    def example_fields(self, num_words: int) -> dict[str, Any]:
        """Return a class, where a field lists several."""
        return {} if self.label_field is None else {self.label_field: [0]}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss over the global batch."""
        labels = self.labels(batch)
        counted_B = _is_known(labels)
        if labels.ndim == 1:
            target_BK = F.one_hot(labels.clamp(min=0), self.num_classes).float()
        else:
            target_BK = labels.clamp(min=0).float()
        target_BK = target_BK * counted_B[:, None]
        if self.mixing is not None:
            batch, target_BK = self.mixing(batch, target_BK, counted_B=counted_B)
        features = self.features(batch)
        if self.votes:
            ((tokens_BLD, mask_BL, _),) = features.values()
            count_B = mask_BL.sum(1)
            logits_BK = self.head(tokens_BLD[mask_BL])
            target_BK = target_BK.repeat_interleave(count_B, 0)
            counted_B = counted_B.repeat_interleave(count_B, 0)
        else:
            logits_BK = self.head_outputs(features)
        loss: Loss = self.objective(logits_BK, target_BK, counted_B=counted_B)
        if self.mixing is not None or self.votes:
            loss = replace(loss, terms=())
        elif batch.text is not None and len(logits_BK) != batch.size:  # questions
            loss = loss.of_samples(batch.text.item_N)
        return self.log_loss(loss)

    def score_names(self) -> set[str]:
        """Return the names of all scores, also of subsets of the modalities."""
        names = MULTI_LABEL_SCORES if self.objective.multi_label else ONE_LABEL_SCORES
        return {prefix + name for prefix in self._prefixes() for name in names}

    def keep(self, batch: Batch) -> Kept:
        """Keep the answers from every subset of the modalities."""
        features = self.features(batch)
        logits = {
            "/".join(subset): self.head_outputs(features, only=subset).float()
            for subset in self._subsets()
        }
        return Kept(
            {"samples": Rows(logits | sample_columns(batch) | {"label": self.labels(batch)})}
        )

    def score(self, tables: dict[str, Table], *, stage: Stage) -> Scored:
        """Score the answers from all modalities, then those from each subset."""
        table = tables["samples"]
        labels = table["label"].numpy()
        evaluations = [
            LabelledEvaluation(
                stage=stage,
                samples_S=table.sample_N.numpy(),
                keys=table["key"],
                logits_SK=table["/".join(subset)].numpy(),
                labels_S=labels if labels.ndim == 1 else None,
                targets_SK=labels if labels.ndim == 2 else None,
                class_names=shown_names(self.class_names),
                fields=table.fields(),
            )
            for subset in self._subsets()
        ]
        values: dict[str, float] = {}
        for prefix, evaluation in zip(self._prefixes(), evaluations, strict=True):
            values |= {prefix + name: value for name, value in label_scores(evaluation).items()}
        return Scored(values, evaluations[0])

    def answers(self, tables: dict[str, Table]) -> tuple[Tensor, Tensor]:
        """Return logits (S, K), and class numbers (S,) or targets (S, K), of labelled samples."""
        table = tables["samples"]
        known_S = _is_known(table["label"])
        return table["/".join(self._subsets()[0])][known_S], table["label"][known_S]

    def example_answers(self) -> tuple[Tensor, Tensor]:
        """Return a sample of each class."""
        logits_KK = torch.eye(self.num_classes)
        return logits_KK, logits_KK.long() if self.objective.multi_label else logits_KK.argmax(1)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return for each sample its label, or labels, and the probability of every class.

        Probabilities stand under the classes' names; two of one name are ``crane (134)`` and
        ``crane (517)`` there. `class` and `classes` are the numbers.
        """
        chances_BK = self.probabilities(batch)
        multi = self.objective.multi_label
        names = self.class_names or [str(k) for k in range(self.num_classes)]
        captions = shown_names(names)
        rows = []
        for row in batch.valid_B.nonzero()[:, 0].tolist():
            chances = chances_BK[row].tolist()
            if multi:
                found = [k for k, chance in enumerate(chances) if chance > 0.5]
                answer: dict[str, Any] = {"labels": [names[k] for k in found], "classes": found}
            else:
                best = max(range(len(chances)), key=chances.__getitem__)
                answer = {"label": names[best], "class": best, "probability": chances[best]}
            probabilities = dict(zip(captions, chances, strict=True))
            rows.append({"key": batch.keys[row], **answer, "probabilities": probabilities})
        return rows

    @torch.no_grad()
    def question(self, batch: Batch, modality: Modality, *, target: Target) -> Question | None:
        """Ask about the predicted class (of several the surest), or the true (first) one."""
        number = int(self.logits(batch)[0].argmax())
        if target == "true":
            labels = self.labels(batch)[0]
            if bool((labels < 0).any()) or (labels.ndim and not bool(labels.any())):
                return None
            number = int(labels if labels.ndim == 0 else labels.argmax())
        return self.class_question(number)

    def class_question(self, number: int) -> Question:
        """Ask how sure the model is of one class: for its logit, and its probability."""

        def score(batch: Batch) -> Tensor:
            return self.logits(batch).float()[:, number]

        def confidence(batch: Batch) -> Tensor:
            return self.probabilities(batch)[:, number]

        return Question(self._shown_class(number), score, confidence)

    def truth(self, batch: Batch, modality: Modality) -> str:
        """Return the sample's classes in words; empty without labels."""
        if batch.label_B is None and self.label_field is None:
            return ""
        labels = self.labels(batch)[0]
        numbers = (
            [int(labels)] if labels.ndim == 0 else labels.clamp(min=0).nonzero()[:, 0].tolist()
        )
        names = [self._shown_class(number) for number in numbers if number >= 0]
        return f"is {', '.join(names)}" if names else ""

    def _shown_class(self, number: int) -> str:
        return shown_names(self.class_names)[number] if self.class_names else f"class {number}"

    def graphs(self) -> list[Graph]:
        """Return the model from samples to logits."""
        return [whole_graph(self, {"logits": LOGITS}, lambda batch: (self.logits(batch),))]

    def draw(self, evaluation: Any, folder: Path, samples: ShownSamples) -> list[Path]:
        """Draw confusions and reliability."""
        return draw_labelled(evaluation, folder)

    def _subsets(self) -> list[tuple[Modality, ...]]:
        names = tuple(self.tower_settings.given())
        return [s for count in range(len(names), 0, -1) for s in combinations(names, count)]

    def _prefixes(self) -> list[str]:
        return ["", *(f"{'_'.join(subset)}/" for subset in self._subsets()[1:])]

    def _targets(self, value: Any, key: str) -> list[int]:
        if value is None:
            return [-1] * self.num_classes
        try:
            numbers = class_numbers(value, self.class_names)
        except ValueError as error:
            raise UserError(f"field '{self.label_field}' of sample {key}: {error}") from error
        targets = [0] * self.num_classes
        for number in numbers:
            if number >= self.num_classes:
                raise UserError(
                    f"field '{self.label_field}' of sample {key} has label {number}, but there are "
                    f"{self.num_classes} classes (labels count from 0)"
                )
            targets[number] = 1
        return targets


def _is_known(labels: Tensor) -> Tensor:
    return labels >= 0 if labels.ndim == 1 else (labels >= 0).all(1)
