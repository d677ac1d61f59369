"""Pictures of what was learned, drawn when training or an evaluation ends, or while it trains."""

from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np

from mmlight.batch import Batch
from mmlight.callbacks.showing.box_pictures import draw_boxes
from mmlight.callbacks.showing.media import send_pictures
from mmlight.data.decode.image_header import as_stored
from mmlight.errors import UserError
from mmlight.metrics.boxes import BoxEvaluation
from mmlight.metrics.calibration import calibration_error, reliability_bins
from mmlight.metrics.labelled import LabelledEvaluation, confusion_matrix
from mmlight.metrics.retrieved import RetrievalEvaluation
from mmlight.runs.plots.curves import plot_curves
from mmlight.runs.plots.examples import (
    Example,
    Found,
    Retrieval,
    plot_retrieval,
    plot_spectrograms,
)
from mmlight.runs.plots.joint_space import plot_joint_space
from mmlight.runs.plots.labelled import plot_confusion
from mmlight.runs.plots.reliability import ReliabilityPanel, plot_reliability
from mmlight.runs.plots.similarity import plot_similarity
from mmlight.runs.run.folder import Run
from mmlight.runs.run.metrics_log import read_rows
from mmlight.runs.show.sounds import keep_sounds


class Pictures(pl.Callback):
    """Draws what an evaluation found, and the curves of training.

    Of a contrastive model similarities, retrieved examples, spectrograms and the joint space; of a
    classifier its confusion matrix and reliability diagram; of a detector its boxes, and precision
    against recall (only the curves for other tasks). Into
    `plots/` of the run folder, and to W&B where that is on. Examples come from a few samples
    that are kept of every evaluation, spread over rank 0's batches; the others of the set are not
    looked at, so a retrieval picture shows the best of these few.

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

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the samples of the last evaluation."""
        self._kept = {}

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
        self._keep(trainer, batch, batch_idx, num_batches=_total(trainer.num_val_batches))

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep some samples of the batch."""
        self._keep(trainer, batch, batch_idx, num_batches=_total(trainer.num_test_batches))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the last validation, and the curves."""
        self._draw_curves(trainer)
        if not self._is_drawn:
            self._draw(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, unless this is one of many validations in training."""
        if trainer.state.fn == "validate":
            self._draw(trainer, pl_module)
        elif not trainer.sanity_checking:
            self._num_validations += 1
            every = self.every_n_validations
            self._is_drawn = every is not None and self._num_validations % every == 0
            if self._is_drawn:
                self._draw_curves(trainer)
                self._draw(trainer, pl_module)

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

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw."""
        self._draw(trainer, pl_module)

    def _keep(self, trainer: pl.Trainer, batch: Batch, number: int, *, num_batches: float) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        # Batch b of n brings the total up to (b + 1) / n of the samples, wherever n is known.
        share = min(1.0, (number + 1) / num_batches) if num_batches < float("inf") else 1.0
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

    def _draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        evaluation: Any = getattr(pl_module, "evaluation", None)
        if not trainer.is_global_zero or evaluation is None:
            return
        folder = Run(Path(trainer.default_root_dir)).plots
        if isinstance(evaluation, LabelledEvaluation):
            send_pictures(trainer, draw_labelled(evaluation, folder))
        if isinstance(evaluation, BoxEvaluation):
            pixels = {
                number: kept["image"].pixels_CHW
                for number, kept in self._kept.items()
                if "image" in kept and kept["image"].pixels_CHW is not None
            }
            send_pictures(
                trainer, draw_boxes(evaluation, folder, pixels=pixels, most=self.num_queries)
            )
        if not isinstance(evaluation, RetrievalEvaluation):
            return  # other tasks draw what is theirs elsewhere
        data: Any = getattr(trainer, "datamodule", None)
        audio = getattr(data, "audio", None)
        drawn = self.draw(
            evaluation,
            folder,
            class_names=getattr(data, "class_names", None),
            sample_rate_hz=getattr(audio, "rate_hz", None),
        )
        send_pictures(trainer, drawn)

    def draw(
        self,
        evaluation: RetrievalEvaluation,
        folder: Path,
        *,
        class_names: list[str] | None = None,
        sample_rate_hz: int | None = None,
    ) -> list[Path]:
        """Draw everything that `evaluation` and the kept samples allow; return the files.

        Args:
            evaluation: features of the whole set.
            folder: where the files go; their names begin with the stage.
            class_names: names of the classes.
            sample_rate_hz: of the waveforms.
        """
        stage, names = evaluation.stage, list(evaluation.features)
        first = {name: _first_rows(evaluation.items[name]) for name in names}
        samples = sorted(self._kept.keys() & set(evaluation.samples_S.tolist()))
        captions = {item: evaluation.captions[row] for item, row in first.get("text", {}).items()}
        drawn: list[Path] = []
        for query in names:
            for gallery in names:
                both = [s for s in samples if s in first[query] and s in first[gallery]]
                if query == gallery or len(both) < 2:
                    continue
                query_ND = evaluation.features[query][[first[query][s] for s in both]]
                gallery_ND = evaluation.features[gallery][[first[gallery][s] for s in both]]
                labels_N = evaluation.labels_of(np.array(both))
                if names.index(query) < names.index(gallery):
                    drawn.append(
                        plot_similarity(
                            query_ND,
                            gallery_ND,
                            folder / f"{stage}_similarity_{query}_{gallery}.png",
                            query=query,
                            gallery=gallery,
                            labels_N=labels_N,
                            captions=[captions[s] for s in both]
                            if captions.keys() >= set(both)
                            else None,
                        )
                    )
                retrievals = self._retrievals(
                    query_ND @ gallery_ND.T, both, query, gallery, captions, labels_N
                )
                picture = plot_retrieval(
                    retrievals,
                    folder / f"{stage}_retrieval_{query}_to_{gallery}.png",
                    query=query,
                    gallery=gallery,
                    num_gallery=len(both),
                    sample_rate_hz=sample_rate_hz,
                )
                drawn.append(picture)
                heard = _heard(retrievals)
                if heard and sample_rate_hz is not None:
                    keep_sounds(picture, heard, sample_rate_hz=sample_rate_hz)
        sounds = [self._example(s, "audio", captions) for s in samples if "audio" in self._kept[s]]
        if sounds:
            path = folder / f"{stage}_spectrograms.png"
            drawn.append(plot_spectrograms(sounds[:6], path, sample_rate_hz=sample_rate_hz))
            heard = [(s.caption, s.waveform_T) for s in sounds[:6] if s.waveform_T is not None]
            if sample_rate_hz is not None:
                keep_sounds(path, heard, sample_rate_hz=sample_rate_hz)
        joint = self._joint_space(evaluation, folder, class_names=class_names)
        return [*drawn, *([joint] if joint else [])]

    def _joint_space(
        self, evaluation: RetrievalEvaluation, folder: Path, *, class_names: list[str] | None
    ) -> Path | None:
        count = len(evaluation.samples_S)
        spread = np.linspace(0, count - 1, min(count, self.num_projected), dtype=int)
        shown_S = evaluation.samples_S[spread]
        rows = {n: np.isin(items, shown_S) for n, items in evaluation.items.items()}
        features = {n: evaluation.features[n][keep] for n, keep in rows.items() if keep.any()}
        if sum(map(len, features.values())) < 8:
            return None
        items = {n: evaluation.items[n][rows[n]] for n in features}
        labels = {n: evaluation.labels_of(values) for n, values in items.items()}
        known = {n: values for n, values in labels.items() if values is not None}
        return plot_joint_space(
            features,
            items,
            folder / f"{evaluation.stage}_joint_space.png",
            labels=known or None,
            class_names=class_names,
            method=self.projection,
        )

    def _retrievals(
        self,
        similarity_NN: np.ndarray,
        samples: list[int],
        query: str,
        gallery: str,
        captions: dict[int, str],
        labels_N: np.ndarray | None,
    ) -> list[Retrieval]:
        count = len(samples)
        retrievals = []
        for row in np.linspace(0, count - 1, min(count, self.num_queries), dtype=int).tolist():
            found = []
            for column in np.argsort(-similarity_NN[row], kind="stable")[: self.num_found].tolist():
                match: Literal["own", "class", "other"] = "other"
                if row == column:
                    match = "own"
                elif labels_N is not None and labels_N[row] == labels_N[column] >= 0:
                    match = "class"
                example = self._example(samples[column], gallery, captions)
                found.append(Found(example, float(similarity_NN[row, column]), match))
            retrievals.append(Retrieval(self._example(samples[row], query, captions), found))
        return retrievals

    def _example(self, sample: int, modality: str, captions: dict[int, str]) -> Example:
        kept = self._kept[sample].get(modality, Example())
        return Example(kept.pixels_CHW, kept.waveform_T, captions.get(sample, ""))


def _heard(retrievals: list[Retrieval]) -> list[tuple[str, np.ndarray]]:
    """Return the sounds of a picture: the queries, or the first of what was found for each."""
    heard = []
    for row, retrieval in enumerate(retrievals, start=1):
        found = [(f"row {row}, found first", one.example) for one in retrieval.found[:1]]
        for place, example in [(f"row {row}, query", retrieval.query), *found]:
            if example.waveform_T is not None:
                heard.append((f"{place}: {example.caption}".rstrip(": "), example.waveform_T))
    return heard


def draw_labelled(evaluation: LabelledEvaluation, folder: Path) -> list[Path]:
    """Draw a classifier's confusion matrix and reliability; return the files.

    Args:
        evaluation: answers of a whole set; with several labels per sample nothing is drawn.
        folder: where the files go; their names begin with the stage.
    """
    if evaluation.labels_S is None or not evaluation.is_labelled_S.any():
        return []
    bins = reliability_bins(evaluation.logits_SK, evaluation.labels_S)
    return [
        plot_confusion(
            confusion_matrix(evaluation),
            folder / f"{evaluation.stage}_confusion.png",
            class_names=evaluation.class_names,
        ),
        plot_reliability(
            [
                ReliabilityPanel(
                    bins.count_M, bins.confidence_M, bins.accuracy_M, calibration_error(bins)
                )
            ],
            folder / f"{evaluation.stage}_reliability.png",
        ),
    ]


def _examples(batch: Batch, row: int) -> dict[str, Example]:
    examples = {}
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


def _first_rows(items_N: np.ndarray) -> dict[int, int]:
    """The first row of each sample."""
    return {item: row for row, item in reversed(list(enumerate(items_N.tolist())))}


def _total(batches: Any) -> float:
    return float(sum(batches)) if isinstance(batches, list) else float(batches)
