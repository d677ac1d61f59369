"""Trains a discrete tokenizer: what comes back of a picture's, or a sound's, codes.

Shapes as in `mmlight.batch`: B samples, C channels, H and W places, L codes, K codes there are.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlight import comm
from mmlight.batch import Batch, Images
from mmlight.encoders.codes import CodeEncoder, Rebuilt, TrainedCodes, Wanted
from mmlight.errors import UserError
from mmlight.metrics.codes import code_use
from mmlight.objectives.objective import Loss, mean_loss
from mmlight.objectives.reconstruction import Reconstruction
from mmlight.runs.plots.picture_grid import plot_patches, plot_rebuilt
from mmlight.tasks.evaluation import Kept, Rows, Scored, Stage, Table
from mmlight.tasks.graph import Graph, whole_graph
from mmlight.tasks.perceptual import Perceptual, PerceptualSettings
from mmlight.tasks.pictures import ShownSamples
from mmlight.tasks.task import Task
from mmlight.tasks.tower import Towers

_SHOWN = 8


@dataclass(frozen=True)
class CodesEvaluation:
    """What pictures are drawn of.

    Attributes:
        stage: `val` or `test`.
        wanted_SCHW: uint8, some samples.
        rebuilt_SCHW: uint8, what came back.
        patches_KCHW: uint8, what each code looks like.
    """

    stage: Stage
    wanted_SCHW: np.ndarray
    rebuilt_SCHW: np.ndarray
    patches_KCHW: np.ndarray


class DiscreteCodes(Task):
    """Learns a tokenizer of images or of sounds (VQ-VAE, arXiv 1711.00937).

    Scores are of reconstructions: ``psnr`` in dB, the share of codes in use and their perplexity
    (as many codes used evenly would be as unpredictable). They look fine while what a picture shows
    is gone: score that, too, by `mmlight judge`.

    Args:
        towers: one tower for image or audio: `mmlight.encoders.vq_image.VqImage`,
            `mmlight.encoders.vq_mel.VqMel`.
        objective: how far reconstructions are off.
        commitment: weight of the distance of vectors to their codes (there, eq. 3).
        perceptual: also compare features of a trained image tower.
        settings: of every task, see `mmlight.tasks.task.Task`.

    Raises:
        UserError: other towers, or one that is no tokenizer that can be trained.
    """

    job_type = "pretrain"

    def __init__(
        self,
        *,
        towers: Towers,
        objective: Callable[[], Reconstruction] = Reconstruction,
        commitment: float = 0.25,
        perceptual: PerceptualSettings | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(towers=towers, **settings)
        names = list(towers.given())
        if names not in (["image"], ["audio"]):
            raise UserError(
                f"model.towers names {', '.join(names) or 'none'}; discrete codes take exactly "
                "one, image or audio"
            )
        if commitment < 0:
            raise UserError(f"model.commitment: {commitment:g} must be 0 or more")
        if perceptual is not None and names != ["image"]:
            raise UserError("model.perceptual: compares images; leave it out for sounds")
        (self.modality,) = towers.given()
        self._make_objective = objective
        self.commitment = commitment
        self._perceptual_settings = perceptual
        self._perceptual: list[Perceptual] = []  # no part of the model
        self._num_shown = 0

    def build(self) -> None:
        """Create the tower and the objective."""
        self.build_towers()
        encoder = self.tower(self.modality).encoder
        if not isinstance(encoder, TrainedCodes):
            raise UserError(
                f"model.towers.{self.modality}.encoder: a {type(encoder).__name__} cannot be "
                "trained to be a tokenizer; use mmlight.encoders.vq_image.VqImage or "
                "mmlight.encoders.vq_mel.VqMel"
            )
        self.objective = self._make_objective()
        if self._perceptual_settings is not None and self.is_fitting:
            self._perceptual = [Perceptual(self._perceptual_settings)]

    def rebuild_description(self) -> dict[str, Any]:
        """Return the description without the model whose features are compared."""
        described = deepcopy(super().rebuild_description())
        described["init_args"].pop("perceptual", None)
        return described

    @property
    def encoder(self) -> TrainedCodes:
        """The tokenizer."""
        encoder = self.tower(self.modality).encoder
        assert isinstance(encoder, TrainedCodes)
        return encoder

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss over the global batch."""
        inputs, counted_B = self._inputs(batch)
        rebuilt, wanted = self.encoder.rebuild(inputs), self.encoder.wanted(inputs)
        terms = self._terms(rebuilt, wanted)
        for compare in self._perceptual:
            terms["perceptual"] = compare(rebuilt.values_BCHW, wanted.values_BCHW)
        means = {
            name: mean_loss(torch.where(counted_B, term_B, 0.0), counted_B)
            for name, term_B in terms.items()
        }
        loss = sum((mean.value for mean in means.values()), torch.zeros((), device=self.device))
        logs = {name: mean.value.detach() for name, mean in means.items()}
        parts = tuple(term for mean in means.values() for term in mean.terms)
        return self.log_loss(Loss(loss, logs, parts))

    def _terms(self, rebuilt: Rebuilt, wanted: Wanted) -> dict[str, Tensor]:
        return {
            "reconstruction": self.objective(
                rebuilt.values_BCHW, wanted.values_BCHW, real_BHW=wanted.real_BHW
            ),
            "commitment": self.commitment * rebuilt.commitment_B,
        }

    def _inputs(self, batch: Batch) -> tuple[Any, Tensor]:
        inputs = getattr(batch, self.modality)
        if inputs is None:
            raise UserError(
                f"the data has no {self.modality}; name the member in data.members.{self.modality}"
            )
        return inputs, batch.valid_B & inputs.present_B

    def score_names(self) -> set[str]:
        """Return the names of all scores."""
        return {"loss", "psnr", "code_share", "code_perplexity"}

    def begin_evaluation(self) -> None:
        """Forget what was shown."""
        super().begin_evaluation()
        self._num_shown = 0

    def keep(self, batch: Batch) -> Kept:
        """Keep errors and codes, and how the first samples look."""
        inputs, known_B = self._inputs(batch)
        rebuilt, wanted = self.encoder.rebuild(inputs), self.encoder.wanted(inputs)
        off_BHW = (rebuilt.values_BCHW - wanted.values_BCHW).square().mean(1)
        if wanted.real_BHW is None:
            error_B = off_BHW.mean((1, 2))
        else:
            error_B = (off_BHW * wanted.real_BHW).sum((1, 2)) / wanted.real_BHW.sum((1, 2))
        loss_B = sum(self._terms(rebuilt, wanted).values(), torch.zeros_like(error_B))
        shown_B = known_B & (known_B.cumsum(0) <= _SHOWN - self._num_shown)
        shown_B = shown_B & (comm.rank() == 0)
        self._num_shown += int(shown_B.sum())
        pictures: dict[str, Any] = {
            "wanted": self._as_pixels(wanted.values_BCHW),
            "rebuilt": self._as_pixels(rebuilt.values_BCHW),
        }
        columns: dict[str, Any] = {
            "error": error_B,
            "loss": loss_B,
            "codes": rebuilt.codes_BL.to(torch.int32),
        }
        return Kept(
            {"samples": Rows(columns, keep_N=known_B), "pictures": Rows(pictures, keep_N=shown_B)}
        )

    def score(self, tables: dict[str, Table], *, stage: Stage) -> Scored:
        """Score what came back of the whole set."""
        table, pictures = tables["samples"], tables["pictures"]
        if not len(table.sample_N):
            return Scored({})
        decibel = 10 * (self.encoder.peak**2 / table["error"].double().clamp(min=1e-12)).log10()
        use = code_use(table["codes"], num_codes=self.encoder.num_codes)
        values = {
            "psnr": float(decibel.mean()),
            "code_share": use.share,
            "code_perplexity": use.perplexity,
            "loss": float(table["loss"].double().mean()),
        }
        # Of all ranks: parts of a sharded encoder are gathered for it.
        patches_KCHW = self._as_pixels(self.encoder.patches()).cpu().numpy()
        wanted_SCHW, rebuilt_SCHW = pictures["wanted"].numpy(), pictures["rebuilt"].numpy()
        return Scored(values, CodesEvaluation(stage, wanted_SCHW, rebuilt_SCHW, patches_KCHW))

    def _as_pixels(self, values_BCHW: Tensor) -> Tensor:
        return as_pixels(self.encoder, values_BCHW)

    def draw(self, evaluation: Any, folder: Path, samples: ShownSamples) -> list[Path]:
        """Draw originals and what came back of them, and the codebook."""
        stage = evaluation.stage
        codebook = plot_patches(evaluation.patches_KCHW, folder / f"{stage}_codebook.png")
        if not len(evaluation.wanted_SCHW):
            return [codebook]
        path = folder / f"{stage}_reconstructions.png"
        return [plot_rebuilt(evaluation.wanted_SCHW, evaluation.rebuilt_SCHW, path), codebook]

    @torch.no_grad()
    def redrawn(self, batch: Batch) -> Images:
        """Return what comes back of each sample's image."""
        if self.modality != "image":
            raise UserError("the model draws no images: its tokenizer is one of sounds")
        inputs, _ = self._inputs(batch)
        values_BCHW = self.encoder.decode(self.encoder.codes(inputs))
        return Images(self._as_pixels(values_BCHW), inputs.present_B)

    def graphs(self) -> list[Graph]:
        """Return the tokenizer from samples to codes."""

        def codes(batch: Batch) -> tuple[Tensor, ...]:
            return (self.encoder.codes(self._inputs(batch)[0]),)

        return [whole_graph(self, {"codes": "int64, row by row"}, codes)]

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return for each sample its codes, row by row."""
        inputs, _ = self._inputs(batch)
        codes = self.encoder.codes(inputs).tolist()
        return [
            {"key": batch.keys[row], "codes": codes[row]}
            for row in batch.valid_B.nonzero()[:, 0].tolist()
        ]


def as_pixels(encoder: CodeEncoder, values_BCHW: Tensor) -> Tensor:
    """Return decoded values as uint8 pixels; a spectrogram's low bands at the bottom."""
    if encoder.modality == "image":
        return (values_BCHW.float().clamp(0, 1) * 255).round().to(torch.uint8)
    # Normalised: about what lies within two deviations.
    unit_BCHW = (values_BCHW.float().flip(2) / 4 + 0.5).clamp(0, 1)
    return (unit_BCHW * 255).round().to(torch.uint8)
