"""Contrastive and captioning losses together (arXiv 2205.01917).

Shapes as in `mmlight.batch`: B samples, N captions, D joint width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from mmlight.batch import Batch, Text
from mmlight.decoders.coca_decoder import CocaDecoder
from mmlight.decoders.decoder import Memory
from mmlight.decoders.sequence import next_tokens
from mmlight.encoders.encoder import Encoded
from mmlight.errors import UserError
from mmlight.metrics.captions import SCORES as CAPTION_SCORES
from mmlight.metrics.captions import CaptionEvaluation, caption_scores
from mmlight.metrics.retrieved import SCORES as RETRIEVAL_SCORES
from mmlight.metrics.retrieved import RetrievalEvaluation, score_pairs
from mmlight.modality import Modality
from mmlight.objectives.clip import Clip
from mmlight.objectives.objective import Loss
from mmlight.objectives.pair_objective import PairObjective
from mmlight.objectives.tokens import TokenLoss
from mmlight.tasks.caption_pictures import draw_captions
from mmlight.tasks.captioning import Captioning, Said
from mmlight.tasks.evaluation import Kept, Scored, Stage, Table
from mmlight.tasks.joint_rows import first_captions, joint_evaluation, joint_rows, paired_samples
from mmlight.tasks.pictures import ShownSamples
from mmlight.tasks.retrieval_pictures import RetrievalPictures
from mmlight.tasks.tower import Towers, check_pooled


@dataclass(frozen=True)
class CocaEvaluation:
    """What an evaluation found: features of the joint space, and captions."""

    retrieval: RetrievalEvaluation
    captions: CaptionEvaluation


@dataclass(frozen=True)
class _Pass:
    """What one pass over a batch gives: features to train on, and what the decoder says."""

    features: dict[Modality, Tensor]
    memory: Memory
    said: Said


class Coca(Captioning):
    """An image or audio tower and a decoder, trained contrastively and to caption in one pass.

    The decoder's first layers read the text alone and embed it; the layers behind them look at the
    other tower's tokens and say what comes next. The other tower's vector is its own pooled one.

    Args:
        towers: one for images or audio, and one for text whose encoder is a
            `mmlight.decoders.coca_decoder.CocaDecoder`.
        embed_dim: width D of the joint space.
        objective: the contrastive loss, `mmlight.objectives.clip.Clip` or
            `mmlight.objectives.siglip.SigLip`.
        contrastive_weight: what it is multiplied by.
        caption_weight: what the mean over tokens of the captioning loss is multiplied by (2 in the
            paper).
        label_smoothing: of the captioning loss.
        predicts: what `mmlight predict` gives: ``features`` of the joint space, which zero-shot
            scores and suites need too, or ``captions``.
        settings: `token_dropout` and `sampling` as in `mmlight.tasks.captioning.Captioning`, and
            those of every task.

    Raises:
        UserError: other towers, or a weight that is not above 0.
    """

    job_type = "pretrain"

    def __init__(
        self,
        *,
        towers: Towers,
        embed_dim: int = 512,
        objective: Callable[[], PairObjective] = Clip,
        contrastive_weight: float = 1.0,
        caption_weight: float = 2.0,
        label_smoothing: float = 0.0,
        predicts: Literal["features", "captions"] = "features",
        **settings: Any,
    ) -> None:
        if settings.get("by", "cross_attention") != "cross_attention":
            raise UserError("model.by: CoCa's decoder looks by cross-attention; leave it out")
        super().__init__(towers=towers, **settings)
        for name, weight in (
            ("contrastive_weight", contrastive_weight),
            ("caption_weight", caption_weight),
        ):
            if not weight > 0:
                raise UserError(f"model.{name}: {weight} must be above 0")
        self.embed_dim = embed_dim
        self.contrastive_weight, self.caption_weight = contrastive_weight, caption_weight
        self.predicts = "features" if predicts == "features" else "rows"
        self._make_objective = objective
        self.token_loss = TokenLoss(label_smoothing=label_smoothing)

    @property
    def decoder(self) -> CocaDecoder:
        """The text tower's encoder."""
        decoder = self.tower("text").encoder
        assert isinstance(decoder, CocaDecoder)
        return decoder

    def build(self) -> None:
        """Create the towers, what leads from one to the other, and the objective."""
        self.build_towers(embed_dim=self.embed_dim)
        encoder = self.tower("text").encoder
        if not isinstance(encoder, CocaDecoder):
            raise UserError(
                f"model.towers.text.encoder: {type(encoder).__name__} gives no text embedding "
                "beside captions; use mmlight.decoders.coca_decoder.CocaDecoder"
            )
        check_pooled(self.tower(self.sense).encoder)
        self.build_captions()
        self.objective = self._make_objective()
        self.objective.build(tuple(self.tower_settings.given()))

    def after_step(self) -> None:
        """Clamp the temperature."""
        self.objective.after_step()

    def encode(self, modality: Modality, inputs: Any) -> Tensor:
        """Return unit-length joint-space features, float32: (B, D), or (N, D) for captions."""
        if modality == "text":
            inputs = self.words.with_ends(inputs)
        return F.normalize(self.tower(modality)(inputs).float(), dim=-1)

    def say(self, text: Text, memory: Memory) -> Said:
        """Return what the decoder says at each place of captions; see `Captioning.say`."""
        text = self.words.with_ends(text)
        return self._said(text, self.decoder.both(text, memory))

    def _said(self, text: Text, both: Encoded) -> Said:
        assert both.tokens_BLD is not None
        return Said(self.decoder.logits(both.tokens_BLD), next_tokens(text))

    def _both(self, batch: Batch) -> _Pass:
        """Compute each tower once; captions are several of a sample in evaluations."""
        seeing, reading = self.tower(self.sense), self.tower("text")
        encoded = seeing.encoder(self._inputs(batch), tokens=True)
        assert encoded.mask_BL is not None
        memory = self.memory(encoded.tokens_BLD, encoded.mask_BL)
        text = self.words.with_ends(self._captions(batch))
        own = Memory(memory.tokens_NMD[text.item_N], memory.mask_NM[text.item_N])
        both = self.decoder.both(text, own)
        features: dict[Modality, Tensor] = {
            self.sense: seeing.projection(encoded.pooled_BD),
            "text": reading.projection(both.pooled_BD),
        }
        return _Pass(features, memory, self._said(text, both))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return both losses over the global batch, weighted."""
        found = self._both(batch)
        contrastive = self.objective(found.features.__getitem__, batch)
        counted_NL = found.said.next.counted_NL & self._known(batch)[:, None]
        captions = self.token_loss(
            found.said.logits_NLV, found.said.next.token_NL, counted_NL=counted_NL
        ).of_samples(self._captions(batch).item_N)
        value = self.contrastive_weight * contrastive.value + self.caption_weight * captions.value
        logs = {
            "contrastive_loss": contrastive.value.detach(),
            "caption_loss": captions.value.detach(),
        }
        terms = [term.weighted(self.contrastive_weight) for term in contrastive.terms]
        terms += [term.weighted(self.caption_weight) for term in captions.terms]
        return self.log_loss(Loss(value, contrastive.logs | logs, tuple(terms)))

    def score_names(self) -> set[str]:
        """Return the names of all scores: of each direction of retrieval, and of captions."""
        pairs = permutations(self.tower_settings.given(), 2)
        retrieval = {f"{a}_to_{b}/{score}" for a, b in pairs for score in RETRIEVAL_SCORES}
        return {"loss", "caption_loss", *retrieval, *(set(CAPTION_SCORES) - {"loss"})}

    def keep(self, batch: Batch) -> Kept:
        """Keep features, which callbacks get too (zero-shot), and captions."""
        seen = self._both(batch)
        captions = self.keep_captions(batch, seen.memory)
        features: dict[Modality, Tensor] = {
            name: F.normalize(x.float(), dim=-1) for name, x in seen.features.items()
        }
        encode, one_each = first_captions(batch, features)
        loss = self.objective(encode, one_each)
        return Kept(
            {**captions.tables, **joint_rows(batch, features)},
            loss=(loss.value, paired_samples(one_each, self.tower_settings.given())),
            outputs={str(name): x_ND for name, x_ND in features.items()},
        )

    def score(self, tables: dict[str, Table], *, stage: Stage) -> Scored:
        """Score both directions of retrieval, and the captions.

        The contrastive loss is ``loss``, that of captions ``caption_loss``.
        """
        retrieval = joint_evaluation(tables, self.tower_settings.given(), stage=stage)
        captions = super().score(tables, stage=stage).evaluation
        of_captions = caption_scores(captions)
        if "loss" in of_captions:
            of_captions["caption_loss"] = of_captions.pop("loss")
        values = score_pairs(retrieval, device=self.device) | of_captions
        return Scored(values, CocaEvaluation(retrieval, captions))

    def draw(self, evaluation: Any, folder: Path, samples: ShownSamples) -> list[Path]:
        """Draw what `Contrastive` and `Captioning` draw."""
        return [
            *RetrievalPictures(evaluation.retrieval, samples).draw(folder),
            *draw_captions(evaluation.captions, folder, samples),
        ]

    def predict_step(self, batch: Batch, batch_idx: int) -> Any:
        """Return unit-length features by modality, or the rows of `Captioning`."""
        if self.predicts == "rows":
            return super().predict_step(batch, batch_idx)
        return {
            name: self.encode(name, getattr(batch, name))
            for name in batch.modalities()
            if name in self.towers
        }
