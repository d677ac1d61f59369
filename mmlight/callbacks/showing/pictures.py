"""Pictures of what was learned, drawn when training or an evaluation ends, or while it trains."""

from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np

from mmlight.batch import Batch
from mmlight.callbacks.showing.media import send_pictures
from mmlight.data.decode.image_header import as_stored
from mmlight.errors import UserError
from mmlight.runs.plots.curves import plot_curves
from mmlight.runs.plots.examples import Example
from mmlight.runs.run.folder import Run
from mmlight.runs.run.metrics_log import read_rows
from mmlight.tasks.pictures import ShownSamples
from mmlight.trainer.loop import num_batches


class Pictures(pl.Callback):
    """Draws what an evaluation found, and the curves of training.

    Of a contrastive model similarities, retrieved examples, spectrograms and the joint space; of a
    classifier its confusion matrix and reliability diagram; of a detector its boxes, and precision
    against recall; of a tokenizer reconstructions and the codebook; of what draws from texts its
    samples (only the curves for other tasks). Into `plots/` of the run folder, and to W&B where
    that is on. Examples come from a few samples that are kept of every evaluation, spread over rank
    0's batches; the others of the set are not looked at, so a retrieval picture shows the best of
    these few.

    Args:
        num_samples: samples kept for examples and for the similarity matrix.
        num_queries: rows of a retrieval picture, and of one of detections.
        num_found: retrieved examples per query.
        projection: how the joint space becomes flat; `tsne` keeps neighbourhoods, `pca` distances.
        num_projected: samples in the picture of the joint space.
        every_n_validations: also draw after each so many validations of a training: the run folder
            keeps the newest, W&B all of them; None: only at its end.
    """

    def __init__(
        self,
        num_samples: int = 64,
        num_queries: int = 4,
        num_found: int = 5,
        projection: Literal["tsne", "pca"] = "tsne",
        num_projected: int = 200,
        every_n_validations: int | None = None,
    ) -> None:
        for name, value in (
            ("num_samples", num_samples),
            ("num_queries", num_queries),
            ("num_found", num_found),
            ("num_projected", num_projected),
            ("every_n_validations", every_n_validations),
        ):
            if value is not None and value < 1:
                raise UserError(f"pictures {name} {value} must be at least 1")
        self.num_samples = num_samples
        self.num_queries = num_queries
        self.num_found = num_found
        self.projection = projection
        self.num_projected = num_projected
        self.every_n_validations = every_n_validations
        self._kept: dict[int, dict[str, Example]] = {}
        self._num_validations = 0
        self._is_drawn = False  # the last validation

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the samples of the last evaluation."""
        self._kept = {}

    on_test_start = on_validation_start

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep some samples of the batch."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        # Batch b of n brings the total up to (b + 1) / n of the samples, wherever n is known.
        total = num_batches(trainer)
        share = min(1.0, (batch_idx + 1) / total) if total < float("inf") else 1.0
        wanted = round(share * self.num_samples) - len(self._kept)
        valid = batch.valid_B.nonzero()[:, 0].tolist()
        if wanted <= 0 or not valid:
            return
        # Evenly spread rows, because files often lie sorted by class.
        rows = [
            valid[i] for i in np.linspace(0, len(valid) - 1, min(wanted, len(valid)), dtype=int)
        ]
        for row in rows:
            self._kept[int(batch.index_B[row])] = _examples(batch, row)

    on_test_batch_end = on_validation_batch_end

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the last validation, and the curves."""
        self._draw_curves(trainer)
        if not self._is_drawn:
            self.on_test_end(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, unless this is one of many validations in training."""
        if trainer.state.fn == "validate":
            self.on_test_end(trainer, pl_module)
        elif not trainer.sanity_checking:
            self._num_validations += 1
            every = self.every_n_validations
            self._is_drawn = every is not None and self._num_validations % every == 0
            if self._is_drawn:
                self._draw_curves(trainer)
                self.on_test_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return how many validations there were: a run that goes on counts further."""
        counts = self.every_n_validations is not None
        return {"num_validations": self._num_validations} if counts else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self._num_validations = state_dict.get("num_validations", 0)

    @staticmethod
    def _draw_curves(trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            run = Run(Path(trainer.default_root_dir))
            curves = plot_curves(read_rows(run.metrics_jsonl), run.plots / "curves.png")
            if curves is not None:
                send_pictures(trainer, [curves])

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Draw the last evaluation."""
        if not trainer.is_global_zero or pl_module.evaluation is None:
            return
        data: Any = getattr(trainer, "datamodule", None)
        audio = getattr(data, "audio", None)
        samples = ShownSamples(
            self._kept,
            num_queries=self.num_queries,
            num_found=self.num_found,
            projection=self.projection,
            num_projected=self.num_projected,
            class_names=getattr(data, "class_names", None),
            sample_rate_hz=getattr(audio, "rate_hz", None),
        )
        folder = Run(Path(trainer.default_root_dir)).plots
        send_pictures(trainer, pl_module.draw(pl_module.evaluation, folder, samples))


def _examples(batch: Batch, row: int) -> dict[str, Example]:
    examples = {}
    batch = batch.with_first_pieces()
    if batch.image is not None and batch.image.present_B[row]:
        pixels_CHW = batch.image.pixels_BCHW[row]
        if batch.image.view is not None:  # without the padding
            height, width = batch.image.view.area_B2[row].tolist()
            pixels_CHW = pixels_CHW[:, :height, :width]
            turn_B = batch.image.view.orientation_B
            if turn_B is not None and batch.boxes is not None:  # which are in pixels as stored
                pixels_CHW = as_stored(pixels_CHW, int(turn_B[row]))
        examples["image"] = Example(pixels_CHW=pixels_CHW.cpu().numpy().copy())
    if batch.audio is not None and batch.audio.present_B[row]:
        wave = batch.audio.waveform_BT[row, : int(batch.audio.length_B[row])]
        examples["audio"] = Example(waveform_T=wave.float().cpu().numpy().copy())
    return examples
