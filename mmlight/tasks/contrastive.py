"""Contrastive pretraining of any set of image, text and audio towers.

Shapes as in `mmlight.batch`: B samples, N captions, D joint width.
"""

from collections.abc import Callable
from itertools import permutations
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlight.batch import Batch, Modality
from mmlight.errors import UserError
from mmlight.metrics.evaluation import Evaluation
from mmlight.objectives.clip import Clip
from mmlight.objectives.objective import Loss, Objective
from mmlight.optim.adamw import AdamWSettings
from mmlight.optim.schedule import Schedule
from mmlight.tasks.first_text import first_rows, with_first_text
from mmlight.tasks.grad_cache import encode_in_chunks
from mmlight.tasks.mean_loss import MeanLoss
from mmlight.tasks.retrieval_scores import SCORES, FeatureStore, score_pairs
from mmlight.tasks.task import Task
from mmlight.tasks.tower import Towers
from mmlight.tasks.tuning import Tuning


class Contrastive(Task):
    """Pulls together the embeddings of the modalities of one sample (arXiv 2103.00020).

    Args:
        towers: one tower per modality; at least two.
        tuning: how much of the towers is trained, and how fast.
        embed_dim: width D of the joint space.
        grad_cache: towers compute this many samples at a time and again in backward, so that
            memory holds the activations of so many, while the loss sees the whole batch
            (arXiv 2101.06983). Exact, but for batch norms, and a quarter to a third slower.
        objective: the loss, `mmlight.objectives.clip.Clip` or `mmlight.objectives.siglip.SigLip`.
        optimizer: AdamW's settings, or those of another class.
        schedule: the learning rate over the steps.
        compile: `blocks` compiles each repeated block of the towers (torch.compile).

    Raises:
        UserError: fewer than two towers, or a tower that does not fit the data.
    """

    takes_captions = True
    job_type = "pretrain"

    def __init__(
        self,
        *,
        towers: Towers,
        tuning: Tuning = Tuning(),  # noqa: B008  (never mutated)
        embed_dim: int = 512,
        grad_cache: int | None = None,
        objective: Callable[[], Objective] = Clip,
        optimizer: AdamWSettings = AdamWSettings(),  # noqa: B008  (never mutated)
        schedule: Schedule = Schedule(),  # noqa: B008
        compile: Literal["none", "blocks"] = "none",
    ) -> None:
        super().__init__(
            towers=towers, tuning=tuning, optimizer=optimizer, schedule=schedule, compile=compile
        )
        if len(towers.given()) < 2:
            raise UserError(
                f"model.towers names {list(towers.given()) or 'none'}; a contrastive task needs "
                "at least two of image, text, audio"
            )
        if grad_cache is not None and grad_cache < 1:
            raise UserError(f"model.grad_cache: {grad_cache} must be at least 1 sample, or null")
        self.embed_dim = embed_dim
        self.grad_cache = grad_cache
        self._make_objective = objective
        self.evaluation: Evaluation | None
        self._store: FeatureStore | None = None
        self._losses = MeanLoss()

    def build(self) -> None:
        """Create the towers and the objective."""
        self.build_towers(embed_dim=self.embed_dim)
        self.objective = self._make_objective()
        self.objective.build(tuple(self.tower_settings.given()))

    def setup(self, stage: str) -> None:
        """Refuse a `grad_cache` that no batch of this rank is larger than."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if stage != "fit" or self.grad_cache is None or not hasattr(data, "global_batch_size"):
            return
        captions = data.text.captions_per_sample if data.text is not None else 1
        size = data.global_batch_size // self.trainer.world_size * captions
        if self.grad_cache >= size:
            raise UserError(
                f"model.grad_cache: {self.grad_cache} has no effect on batches of {size} for each "
                "process; give fewer samples, or leave it out"
            )

    def after_step(self) -> None:
        """Clamp the temperature."""
        self.objective.after_step()

    def encode(self, modality: Modality, inputs: Any) -> Tensor:
        """Return unit-length joint-space features, float32: (B, D), or (N, D) for captions."""
        return F.normalize(self.tower(modality)(inputs).float(), dim=-1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the objective's loss over the global batch."""
        loss = self.loss(batch)
        self.log_gated(
            {"train/loss": loss.value.detach()}
            | {f"train/{name}": value for name, value in loss.logs.items()}
        )
        return loss.value

    def loss(self, batch: Batch) -> Loss:
        """Return the objective's loss over the global batch; each tower computes once."""
        encoded: dict[Modality, Tensor] = {}

        def encode(modality: Modality) -> Tensor:
            if modality not in encoded:
                encoded[modality] = self._features(batch, modality)
            return encoded[modality]

        if self.grad_cache is not None:
            # Backward begins with what was computed last. That chunk keeps its activations, while
            # no other's are held; an image's cost most.
            first, *rest = self.objective.modalities(tuple(self.tower_settings.given()))
            for modality in rest:
                encode(modality)
            encoded[first] = self._features(batch, first, keeps_last=True)
        return self.objective(encode, batch)

    def _features(self, batch: Batch, modality: Modality, *, keeps_last: bool = False) -> Tensor:
        # Joint-space features (B, D) to train on, not normalised.
        tower, inputs = self.tower(modality), getattr(batch, modality)
        if self.grad_cache is not None and self.grad_cache < len(next(inputs.tensors())):
            return encode_in_chunks(tower, inputs, size=self.grad_cache, keeps_last=keeps_last)
        features_BD: Tensor = tower(inputs)
        return features_BD

    def score_names(self) -> set[str]:
        """Return the names of all scores, of each pair in both directions."""
        pairs = permutations(self.tower_settings.given(), 2)
        return {"loss", *(f"{a}_to_{b}/{score}" for a, b in pairs for score in SCORES)}

    def on_validation_epoch_start(self) -> None:
        """Start an empty store of features."""
        self._store = FeatureStore(tuple(self.tower_settings.given()))
        self._losses = MeanLoss()

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Keep the features of every sample; return them for callbacks (zero-shot)."""
        return self._evaluation_step(batch)

    def on_validation_epoch_end(self) -> None:
        """Score every ordered pair of modalities over the whole set and all ranks."""
        self._evaluation_end("val")

    def on_test_epoch_start(self) -> None:
        """Start an empty store of features."""
        self.on_validation_epoch_start()

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Do what `validation_step` does, on the test set."""
        return self._evaluation_step(batch)

    def on_test_epoch_end(self) -> None:
        """Score the test set."""
        self._evaluation_end("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[Modality, Tensor]:
        """Return unit-length features of each modality that the batch carries."""
        return {
            name: self.encode(name, getattr(batch, name))
            for name in batch.modalities()
            if name in self.towers
        }

    def _evaluation_step(self, batch: Batch) -> dict[str, Any]:
        assert self._store is not None
        features = self.predict_step(batch, 0)
        self._store.add(batch, features)
        # On every rank, whatever its rows: the objective is a collective.
        encode, one_each = first_captions(batch, features)
        loss = self.objective(encode, one_each)
        present = [one_each.present(m) for m in one_each.modalities() if m in self.towers]
        # A pair takes two; a sample without one is nobody's positive.
        is_paired_B = torch.stack(present).sum(0) > 1
        self._losses.add(loss.value, is_paired_B & one_each.valid_B)
        return {str(name): value for name, value in features.items()}

    def _evaluation_end(self, stage: str) -> None:
        assert self._store is not None
        gathered = self._store.gather()
        self._store = None
        scores = score_pairs(gathered, device=self.device) | self._losses.scores()
        # Every rank holds the same scores: nothing to reduce.
        self.log_dict({f"{stage}/{name}": value for name, value in scores.items()})
        self.evaluation = gathered.as_evaluation(stage) if self.trainer.is_global_zero else None


def first_captions(
    batch: Batch, features: dict[Modality, Tensor]
) -> tuple[Callable[[Modality], Tensor], Batch]:
    """Return what the objective takes when samples have several captions: the first of each.

    Args:
        batch: an evaluation batch; its captions are sorted by sample.
        features: (B, D) per modality, (N, D) for text.
    """
    text = batch.text
    if text is None:
        return features.__getitem__, batch
    first_B = first_rows(text, batch.size)
    selected = features | {"text": features["text"][first_B]} if "text" in features else features
    return selected.__getitem__, with_first_text(batch)
