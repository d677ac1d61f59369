"""Contrastive pretraining of any set of image, text and audio towers.

Shapes as in `mmlight.batch`: B samples, N captions, D joint width.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlight.batch import Batch, Modality, Text
from mmlight.errors import UserError
from mmlight.metrics.evaluation import Evaluation
from mmlight.objectives.clip import Clip
from mmlight.objectives.objective import Objective
from mmlight.optim.adamw import AdamWSettings
from mmlight.optim.schedule import Schedule
from mmlight.tasks.retrieval_scores import FeatureStore, score_pairs
from mmlight.tasks.spec import describe
from mmlight.tasks.task import Task
from mmlight.tasks.tower import Tower, Towers


class Contrastive(Task):
    """Pulls together the embeddings of the modalities of one sample (arXiv 2103.00020).

    Args:
        towers: one tower per modality; at least two.
        embed_dim: width D of the joint space.
        objective: the loss, `mmlight.objectives.clip.Clip` or `mmlight.objectives.siglip.SigLip`.
        optimizer: AdamW's settings.
        schedule: the learning rate over the steps.
        compile: `blocks` compiles each repeated block of the towers (torch.compile).

    Raises:
        UserError: fewer than two towers, or a tower that does not fit the data.
    """

    def __init__(
        self,
        *,
        towers: Towers,
        embed_dim: int = 512,
        objective: Callable[[], Objective] = Clip,
        optimizer: AdamWSettings = AdamWSettings(),  # noqa: B008  (never mutated)
        schedule: Schedule = Schedule(),  # noqa: B008
        compile: Literal["none", "blocks"] = "none",
    ) -> None:
        super().__init__(optimizer=optimizer, schedule=schedule, compile=compile)
        if len(towers.given()) < 2:
            raise UserError(
                f"model.towers names {list(towers.given()) or 'none'}; a contrastive task needs "
                "at least two of image, text, audio"
            )
        self.tower_settings = towers
        self.embed_dim = embed_dim
        self._make_objective = objective
        self.evaluation: Evaluation | None = None
        self._store: FeatureStore | None = None

    def tower(self, modality: Modality) -> Tower:
        """Return a built tower."""
        return cast(Tower, self.towers[modality])

    def build(self) -> None:
        """Create the towers and the objective."""
        given = self.tower_settings.given()
        self.towers = nn.ModuleDict(
            {
                name: Tower(settings, modality=name, embed_dim=self.embed_dim)
                for name, settings in given.items()
            }
        )
        if self.preprocessing is not None:
            for name in given:
                check_tower_fits(self.tower(name).encoder, self.preprocessing)
        self.objective = self._make_objective()
        self.objective.build(tuple(given))
        if self.compile_mode == "blocks":
            for name in given:
                self.tower(name).compile_blocks()

    def no_weight_decay(self) -> set[str]:
        """Return what the encoders exclude, under this module's names."""
        return {
            f"towers.{name}.encoder.{parameter}"
            for name in self.tower_settings.given()
            for parameter in self.tower(name).encoder.no_weight_decay()
        }

    def rebuild_description(self) -> dict[str, Any]:
        """Return the description with each encoder as an architecture, not a pretrained name."""
        described = deepcopy(self.description)
        for name in self.tower_settings.given():
            encoder = described["init_args"]["towers"][name]["encoder"]
            encoder["init_args"] = describe(self.tower(name).encoder.rebuild_args())
        return described

    def after_step(self) -> None:
        """Clamp the temperature."""
        self.objective.after_step()

    def encode(self, modality: Modality, inputs: Any) -> Tensor:
        """Return unit-length joint-space features, float32: (B, D), or (N, D) for captions."""
        return F.normalize(self.tower(modality)(inputs).float(), dim=-1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the objective's loss over the global batch."""
        encoded: dict[Modality, Tensor] = {}

        def encode(modality: Modality) -> Tensor:
            if modality not in encoded:
                encoded[modality] = self.tower(modality)(getattr(batch, modality))
            return encoded[modality]

        loss = self.objective(encode, batch)
        self.log_gated(
            {"train/loss": loss.value.detach()}
            | {f"train/{name}": value for name, value in loss.logs.items()}
        )
        return loss.value

    def on_validation_epoch_start(self) -> None:
        """Start an empty store of features."""
        self._store = FeatureStore(tuple(self.tower_settings.given()))

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Keep the features of every sample; return them for callbacks (zero-shot)."""
        return self._evaluation_step(batch, stage="val")

    def on_validation_epoch_end(self) -> None:
        """Score every ordered pair of modalities over the whole set and all ranks."""
        self._evaluation_end("val")

    def on_test_epoch_start(self) -> None:
        """Start an empty store of features."""
        self.on_validation_epoch_start()

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Do what `validation_step` does, on the test set."""
        return self._evaluation_step(batch, stage="test")

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

    def _evaluation_step(self, batch: Batch, *, stage: str) -> dict[str, Any]:
        assert self._store is not None
        features = self.predict_step(batch, 0)
        self._store.add(batch, features)
        # On every rank, whatever its rows: the objective is a collective.
        loss = self.objective(*first_captions(batch, features))
        self.log(f"{stage}/loss", loss.value, on_step=False, on_epoch=True, batch_size=batch.size)
        return {str(name): value for name, value in features.items()}

    def _evaluation_end(self, stage: str) -> None:
        assert self._store is not None
        gathered = self._store.gather()
        self._store = None
        scores = score_pairs(gathered, device=self.device)
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
    # Every sample has at least one row; one without a caption has a row marked as not present.
    rows_N = torch.arange(len(text.item_N), device=text.item_N.device)
    first_B = rows_N.new_full((batch.size,), len(rows_N)).scatter_reduce(
        0, text.item_N, rows_N, reduce="amin"
    )
    one_each = Text(
        token_ids_NL=text.token_ids_NL[first_B],
        mask_NL=text.mask_NL[first_B],
        present_N=text.present_N[first_B],
        item_N=torch.arange(batch.size, device=text.item_N.device),
        caption_id_N=text.caption_id_N[first_B],
    )
    selected = features | {"text": features["text"][first_B]} if "text" in features else features
    return selected.__getitem__, replace(batch, text=one_each)


def check_tower_fits(encoder: Any, preprocessing: dict[str, Any]) -> None:
    """Raise UserError where the data's settings and an encoder disagree.

    Args:
        encoder: an encoder of `mmlight.encoders`.
        preprocessing: what the data module says of itself: plain settings by modality, or None
            for a modality that the data lacks.
    """
    modality: Modality = encoder.modality
    settings = preprocessing.get(modality)
    where = f"model.towers.{modality}"
    if settings is None:
        raise UserError(
            f"{where} is set, but the data has no {modality}; name the member in "
            f"data.members.{modality}, or leave the tower out"
        )
    if modality == "text":
        have, need = int(encoder.vocab_size), int(settings["vocab_size"])
        if need > have:
            raise UserError(
                f"{where}.encoder has an embedding table of {have} tokens, but the tokenizer "
                f"gives {need}; set its vocab_size to {need} or more"
            )
        limit = getattr(encoder, "max_tokens", None)
        if limit is not None and settings["max_tokens"] > limit:
            raise UserError(
                f"data.text.max_tokens is {settings['max_tokens']}, but {where}.encoder has "
                f"positions for {limit}; lower the first or raise the second"
            )
    if modality == "audio" and settings["sample_rate_hz"] != encoder.sample_rate_hz:
        raise UserError(
            f"data.audio.sample_rate_hz is {settings['sample_rate_hz']}, but {where}.encoder "
            f"wants {encoder.sample_rate_hz}; set the first to {encoder.sample_rate_hz}"
        )
    if modality == "image":
        channels = getattr(encoder, "in_chans", settings["channels"])
        if settings["channels"] != channels:
            raise UserError(
                f"data.image.channels is {settings['channels']}, but {where}.encoder takes "
                f"{channels} (in_chans); make them equal"
            )
