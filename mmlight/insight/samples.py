"""Explains samples of a split, spread evenly over it.

Shapes: R rows and K columns of a canvas.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from mmlight.batch import Batch, Modality
from mmlight.encoders.eval_mode import eval_mode
from mmlight.insight.explain import explain
from mmlight.insight.explained import Explained
from mmlight.insight.questions import question_of, truth_of
from mmlight.insight.settings import Asked
from mmlight.insight.subject import Subject
from mmlight.insight.units import Tokens
from mmlight.runs.plots.examples import spectrogram_db
from mmlight.tasks.task import Task


def explain_samples(
    task: Task, data: Any, *, split: str, modality: Modality, asked: Asked
) -> Iterator[Explained]:
    """Explain a model's answers for some samples, in evaluation mode.

    Samples that lack the modality, or about which there is nothing to ask, are passed over.

    Args:
        task: a model that `mmlight.insight.questions.check_task` lets pass.
        data: a data module whose split is open (`batch_of`, `num_samples`).
        split: `val` or `test`.
        modality: what is explained.
        asked: what is asked, and how finely.

    Raises:
        UserError: a method that does not suit the encoder.
    """
    size = data.num_samples(split)
    # Lightning evaluates in inference mode, which gradients cannot leave.
    with torch.inference_mode(False), eval_mode(task):
        for number in np.unique(np.linspace(0, size - 1, min(size, asked.num_samples), dtype=int)):
            batch = data.batch_of(split, [int(number)]).to(task.device)
            if not bool(batch.valid_B[0]) or not bool(batch.present(modality)[0]):
                continue
            question = question_of(task, batch, modality, target=asked.target)
            if question is None:
                continue
            subject = Subject(task, batch, modality, question, batch_size=asked.batch_size)
            tokens = _tokens(data.text, batch) if modality == "text" else None
            explanation = explain(
                subject,
                methods=asked.methods,
                tokens=tokens,
                image_blank=asked.image_blank,
                effort=asked.effort,
                seed=asked.seed * 1_000_003 + int(number),
            )
            waveform_T = _waveform(batch) if modality == "audio" else None
            picture = _look(subject, explanation.canvas_RK, waveform_T)
            yield Explained(
                number=int(number),
                key=batch.keys[0],
                truth=truth_of(task, batch, modality),
                explanation=explanation,
                picture=picture,
                waveform_T=waveform_T,
                seconds=None if waveform_T is None else len(waveform_T) / data.audio.rate_hz,
                pieces=tuple(tokens.pieces) if tokens is not None else (),
            )


def _tokens(settings: Any, batch: Batch) -> Tokens:
    """Cut the first caption as the data did; a piece begins where the one before it ended."""
    caption = batch.captions[0]
    tokenizer = settings.tokenizer
    encoding = tokenizer.encode_batch([caption], max_tokens=settings.max_tokens, offsets=True)
    pieces, reached = [], 0
    for start, end in encoding.offsets_NL2[0].tolist():
        # Bytes of one character share its place.
        pieces.append((caption[reached:end] or "\u00b7") if end > start else "")
        reached = max(reached, end)
    mask_id = tokenizer.mask_id
    return Tokens(pieces, tokenizer.pad_id if mask_id is None else mask_id)


def _waveform(batch: Batch) -> np.ndarray:
    assert batch.audio is not None
    wave_T = batch.audio.waveform_BT[0, : int(batch.audio.length_B[0])]
    return np.asarray(wave_T.float().cpu().numpy())


def _look(
    subject: Subject, canvas_RK: np.ndarray, waveform_T: np.ndarray | None
) -> np.ndarray | None:
    """Return what the sample looks like."""
    batch = subject.batch
    if subject.modality == "image":
        assert batch.image is not None
        return batch.image.pixels_BCHW[0].permute(1, 2, 0).cpu().numpy()
    if waveform_T is None:
        return None
    if len(canvas_RK) == 1:
        return spectrogram_db(waveform_T, num_fft=256)
    return canvas_RK[:, : int(subject.canvas.real_B[0])]
