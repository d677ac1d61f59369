"""The worst errors and the most confident mistakes of a classifier, with the samples themselves."""

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from PIL import Image

from mmlight.batch import Batch
from mmlight.callbacks.showing.media import send_pictures, send_table
from mmlight.errors import UserError
from mmlight.files import write_bytes
from mmlight.metrics.labelled import LabelledEvaluation
from mmlight.metrics.mistakes import find_mistakes
from mmlight.runs.plots.examples import Example, image_thumbnail, sound_thumbnail
from mmlight.runs.plots.mistakes import plot_mistakes
from mmlight.runs.run.folder import Run
from mmlight.runs.run.stage_rows import write_stage_rows
from mmlight.runs.show.sounds import flac

_MOST_DRAWN = 12


class ErrorsTable(pl.Callback):
    """Lists what a classifier got wrong: of highest loss first, with those it was most sure of.

    Into `mistakes.jsonl` and `mistakes/` of the run folder (thumbnails, sounds), its report, a
    picture in `plots/`, and a table in W&B. Of the last validation when training ends, of a
    validation or a test on its own. Samples are decoded again, after the epoch.

    Args:
        num_samples: how many of highest loss, and how many of highest confidence; many are both.
        with_sounds: keep the sounds themselves (FLAC) beside their spectrograms.
    """

    def __init__(self, num_samples: int = 12, with_sounds: bool = True) -> None:
        if num_samples < 1:
            raise UserError(f"mistakes.num_samples is {num_samples}; it must be 1 or more")
        self.num_samples = num_samples
        self.with_sounds = with_sounds

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Refuse tasks without labels for whole samples."""
        if not pl_module.has_mistakes:
            raise UserError(
                f"mistakes: a {type(pl_module).__name__} has none to list; the model must be a "
                "Classification"
            )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """List the mistakes, unless this is one of many validations in training."""
        if trainer.state.fn == "validate":
            self.on_test_end(trainer, pl_module)

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """List the mistakes of the last evaluation."""
        evaluation: LabelledEvaluation | None = pl_module.evaluation
        if not trainer.is_global_zero or evaluation is None:
            return
        found = find_mistakes(evaluation, most=self.num_samples)
        run, stage = Run(Path(trainer.default_root_dir)), evaluation.stage
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        rate = data.audio.rate_hz if data.audio is not None else None
        towers = tuple(pl_module.tower_settings.given())
        rows, examples = [], []
        for mistake in found.shown:
            batch = data.batch_of(stage, [mistake.number])
            example = _example(batch, towers)
            files = self._keep(example, run.mistakes, f"{stage}_{mistake.number:08d}", rate)
            rows.append({**asdict(mistake), **files, "text": example.caption or None})
            examples.append(example)
        write_stage_rows(run.mistakes_jsonl, rows, stage=stage)
        if not rows:
            return
        wrong = f"{found.num_wrong} of {found.num_labelled} are wrong"
        picture = plot_mistakes(
            examples[:_MOST_DRAWN],
            rows[:_MOST_DRAWN],
            run.plots / f"{stage}_mistakes.png",
            title=f"{stage}: {wrong}; highest loss first",
            sample_rate_hz=rate,
        )
        send_pictures(trainer, [picture])
        send_table(trainer, f"{stage}_mistakes", rows, folder=run.path)

    on_train_end = on_test_end

    def _keep(
        self, example: Example, folder: Path, name: str, sample_rate_hz: int | None
    ) -> dict[str, str | None]:
        """Write what can be looked at and listened to; return paths below the run folder."""
        files: dict[str, bytes] = {}
        if example.pixels_CHW is not None:
            files["image"] = _png(image_thumbnail(example.pixels_CHW))
        if example.waveform_T is not None:
            files["spectrogram"] = _png(sound_thumbnail(example.waveform_T))
            if self.with_sounds:
                assert sample_rate_hz is not None
                files["sound"] = flac(example.waveform_T, sample_rate_hz)
        kept: dict[str, str | None] = {"image": None, "spectrogram": None, "sound": None}
        for kind, content in files.items():
            path = folder / f"{name}_{kind}.{'flac' if kind == 'sound' else 'png'}"
            write_bytes(path, content)
            kept[kind] = f"{folder.name}/{path.name}"
        return kept


def _example(batch: Batch, towers: tuple[str, ...]) -> Example:
    """Return what the model was given of the first sample."""
    pixels_CHW = waveform_T = None
    if "image" in towers and batch.image is not None and bool(batch.image.present_B[0]):
        pixels_CHW = batch.image.pixels_BCHW[0].numpy()
    if "audio" in towers and batch.audio is not None and bool(batch.audio.present_B[0]):
        waveform_T = batch.audio.waveform_BT[0, : int(batch.audio.length_B[0])].numpy()
    caption = batch.captions[0] if "text" in towers and batch.captions else ""
    return Example(pixels_CHW, waveform_T, caption)


def _png(pixels_HWC: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
