"""Contrastive pretraining of any set of image, text and audio towers.

Shapes as in `mmlight.batch`: B samples, N captions, D joint width.
"""

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlight.batch import Batch
from mmlight.errors import UserError
from mmlight.metrics.retrieved import SCORES, score_pairs
from mmlight.modality import Modality
from mmlight.objectives.clip import Clip
from mmlight.objectives.objective import Loss, Objective
from mmlight.saved.description import describe
from mmlight.tasks.aligned import read_aligned
from mmlight.tasks.evaluation import Kept, Scored, Stage, Table
from mmlight.tasks.grad_cache import encode_in_chunks
from mmlight.tasks.graph import INPUTS, Graph
from mmlight.tasks.joint_rows import first_captions, joint_evaluation, joint_rows, paired_samples
from mmlight.tasks.pictures import ShownSamples
from mmlight.tasks.question import Question
from mmlight.tasks.retrieval_pictures import RetrievalPictures
from mmlight.tasks.task import Target, Task
from mmlight.tasks.tower import Towers


class Contrastive(Task):
    """Pulls together the embeddings of the modalities of one sample (arXiv 2103.00020).

    Args:
        towers: one tower per modality; at least two. With `from_pretrained`, what is other than
            in that model: a further tower, `locked`, `changes`.
        embed_dim: width D of the joint space; by default that of `from_pretrained`, else 512.
        from_pretrained: begin with an aligned model, its towers, projections, temperature and bias:
            a run, a checkpoint, an export, or a model of open_clip or transformers. The data's
            tokenizer and the settings of its images and sounds follow it where nothing is set.
        grad_cache: towers compute this many samples at a time and again in backward, so that
            memory holds the activations of so many, while the loss sees the whole batch
            (arXiv 2101.06983). Exact, but for batch norms, and a quarter to a third slower.
        objective: the loss, `mmlight.objectives.clip.Clip` or `mmlight.objectives.siglip.SigLip`;
            by default that of `from_pretrained`, else Clip.
        settings: of every task, see `mmlight.tasks.task.Task`.

    Raises:
        UserError: fewer than two towers, or a tower that does not fit the data.
    """

    outside = ("from_pretrained",)  # see `Encoder.outside`
    takes_captions = True
    job_type = "pretrain"
    explained_targets = ("predicted",)
    predicts = "features"

    def __init__(
        self,
        *,
        towers: Towers = Towers(),  # noqa: B008  (never mutated)
        embed_dim: int | None = None,
        from_pretrained: str | None = None,
        grad_cache: int | None = None,
        objective: Callable[[], Objective] | None = None,
        **settings: Any,
    ) -> None:
        aligned = read_aligned(from_pretrained) if from_pretrained is not None else None
        if aligned is not None:
            towers = aligned.towers(towers)
        super().__init__(towers=towers, **settings)
        if len(towers.given()) < 2:
            raise UserError(
                f"model.towers names {list(towers.given()) or 'none'}; a contrastive task needs "
                "at least two of image, text, audio"
            )
        if grad_cache is not None and grad_cache < 1:
            raise UserError(f"model.grad_cache: {grad_cache} must be at least 1 sample, or null")
        self.embed_dim = embed_dim or (aligned.embed_dim if aligned is not None else 512)
        self.grad_cache = grad_cache
        self._make_objective = objective or (aligned.objective() if aligned is not None else Clip)
        self._aligned = aligned
        if aligned is not None:
            # A checkpoint names no other file: what it says is whole without one.
            self.description["init_args"] |= {
                "towers": describe(towers),
                "embed_dim": self.embed_dim,
                "from_pretrained": None,
            }
            if objective is None and aligned.objective_description is not None:
                self.description["init_args"]["objective"] = aligned.objective_description

    @property
    def takes_pieces(self) -> bool:
        """Whether samples may have several images or sounds."""
        return True

    def build(self) -> None:
        """Create the towers and the objective."""
        aligned = self._aligned
        sources = aligned.sources(self.tower_settings) if aligned is not None else {}
        self.build_towers(embed_dim=self.embed_dim, sources=sources)
        self.objective = self._make_objective()
        self.objective.build(tuple(self.tower_settings.given()))
        if aligned is not None:
            self.origins["objective"] = aligned.load_objective(self.objective)
            if self.preprocessing is None:
                self.preprocessing = aligned.saved.preprocessing
            self._aligned = None  # its tensors are in the towers now

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
        return self.log_loss(self.loss(batch))

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
        if self.grad_cache is not None and self.grad_cache < inputs.size:
            return encode_in_chunks(tower, inputs, size=self.grad_cache, keeps_last=keeps_last)
        features_BD: Tensor = tower(inputs)
        return features_BD

    def score_names(self) -> set[str]:
        """Return the names of all scores, of each pair in both directions."""
        pairs = permutations(self.tower_settings.given(), 2)
        return {"loss", *(f"{a}_to_{b}/{score}" for a, b in pairs for score in SCORES)}

    def keep(self, batch: Batch) -> Kept:
        """Keep the features of every sample; callbacks get them too (zero-shot)."""
        features = self.predict_step(batch, 0)
        # On every rank, whatever its rows: the objective is a collective.
        encode, one_each = first_captions(batch, features)
        loss = self.objective(encode, one_each)
        return Kept(
            joint_rows(batch, features),
            # A sample without a pair is nobody's positive.
            loss=(loss.value, paired_samples(one_each, self.tower_settings.given())),
            outputs={str(name): x_ND for name, x_ND in features.items()},
        )

    def score(self, tables: dict[str, Table], *, stage: Stage) -> Scored:
        """Score every ordered pair of modalities."""
        evaluation = joint_evaluation(tables, self.tower_settings.given(), stage=stage)
        return Scored(score_pairs(evaluation, device=self.device), evaluation)

    @torch.no_grad()
    def question(self, batch: Batch, modality: Modality, *, target: Target) -> Question | None:
        """Ask how similar the sample is to its text, or that to another modality of its own."""
        partner = self.partner(modality)
        if getattr(batch, partner) is None or not bool(batch.present(partner)[0]):
            return None
        return self.pair_question(modality, partner)

    def pair_question(self, modality: Modality, partner: Modality) -> Question:
        """Ask for the cosine of a sample's `modality` and its `partner`, which stays as it is."""

        def cosine(batch: Batch) -> Tensor:
            ours_BD = self.encode(modality, getattr(batch, modality))
            with torch.no_grad():
                theirs_BD = self.encode(partner, getattr(batch, partner))
            return (ours_BD * theirs_BD).sum(1)

        return Question(f"its {partner}", cosine, cosine)

    def partner(self, modality: Modality) -> Modality:
        """Return what a modality is compared with: text where there is a tower, else the next."""
        others = [name for name in self.tower_settings.given() if name != modality]
        return "text" if "text" in others else others[0]

    def graphs(self) -> list[Graph]:
        """Return each tower."""

        def features(modality: Modality) -> Callable[[Batch], tuple[Tensor, ...]]:
            return lambda batch: (self.encode(modality, getattr(batch, modality)),)

        meaning = "float32, of unit length: a dot product is the cosine similarity"
        return [
            Graph(
                self.tower(modality),
                name=modality,
                function=features(modality),
                inputs=INPUTS[modality],
                outputs={"features": meaning},
            )
            for modality in self.tower_settings.given()
        ]

    def draw(self, evaluation: Any, folder: Path, samples: ShownSamples) -> list[Path]:
        """Draw similarities, retrieved examples, sounds and the joint space."""
        return RetrievalPictures(evaluation, samples).draw(folder)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[Modality, Tensor]:
        """Return unit-length features of each modality that the batch carries."""
        return {
            name: self.encode(name, getattr(batch, name))
            for name in batch.modalities()
            if name in self.towers
        }
