"""Embeds images, sentences and sounds with a trained model, in a few lines of Python.

Shapes as in `mmlight.batch`: N inputs, D joint width.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image
from torch import Tensor

from mmlight.batch import Batch, Modality
from mmlight.data.audio import AudioSettings, load_audio
from mmlight.data.collate import Layout, collate
from mmlight.data.image import ImageSettings, load_image
from mmlight.data.sample import Sample
from mmlight.data.text import TextSettings
from mmlight.errors import UserError
from mmlight.interop.saved_config import kept_text, plain_names
from mmlight.tasks.contrastive import Contrastive
from mmlight.tasks.rebuild import rebuild_settings
from mmlight.tasks.source import find_saved
from mmlight.tasks.task import load_task

ImageInput = str | Path | bytes | Image.Image | np.ndarray
SoundInput = str | Path | bytes | tuple[np.ndarray, int]


class Embedder:
    """A contrastive model and the preparation of its inputs, both from one checkpoint.

    Example::

        embedder = Embedder.load("runs/scenes/20260101-120000-abcd")
        images = embedder.images(["a.jpg", "b.png"])
        texts = embedder.texts(["a red circle", "a blue star"])
        similarity = images @ texts.T

    Args:
        task: the model, in evaluation mode.
        device: where it runs.

    Raises:
        UserError: the checkpoint does not say how inputs are prepared.
    """

    def __init__(self, task: Contrastive, *, device: str | torch.device = "cpu") -> None:
        if task.preprocessing is None:
            raise UserError("the checkpoint does not say how its inputs were prepared")
        self.task = task.eval().to(device)
        self.device = torch.device(device)
        self.class_names: list[str] = plain_names(task.preprocessing)
        kept = task.preprocessing
        self._image: ImageSettings | None = None
        self._audio: AudioSettings | None = None
        self._text: TextSettings | None = None
        if kept.get("image"):
            self._image = rebuild_settings(kept["image"], ImageSettings, key="data.image")
        if kept.get("audio"):
            self._audio = rebuild_settings(kept["audio"], AudioSettings, key="data.audio")
        if kept.get("text"):
            self._text = kept_text(kept["text"])

    @classmethod
    def load(
        cls, path: str | Path, *, device: str | torch.device = "cpu", trust: Sequence[str] = ()
    ) -> "Embedder":
        """Load a run's newest checkpoint, a checkpoint file, or an exported folder.

        Args:
            path: a run folder, a ``.ckpt`` file, or an exported folder.
            device: where the model runs.
            trust: modules of your own whose classes the checkpoint may name.

        Raises:
            UserError: there is no checkpoint, it is of another task, damaged, or names classes that
                are not mmlight's.
        """
        checkpoint = find_saved(str(path), key="path")
        task = load_task(checkpoint, trust=trust)
        if not isinstance(task, Contrastive):
            raise UserError(f"{checkpoint}: holds a {type(task).__name__}, not a Contrastive task")
        return cls(task, device=device)

    def images(self, images: Sequence[ImageInput], *, batch_size: int = 64) -> Tensor:
        """Return (N, D) unit-length features, float32 on the CPU.

        Args:
            images: paths, encoded bytes, PIL images, or (H, W, 3) or (H, W) uint8 arrays.
            batch_size: how many are embedded at once.
        """
        settings = self._require("image", self._image)
        samples = (
            Sample(i, "", pixels_CHW=load_image(_image_bytes(image), settings, draws=None))
            for i, image in enumerate(images)
        )
        return self._embed("image", samples, batch_size=batch_size)

    def texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """Return (N, D) unit-length features, float32 on the CPU.

        Raises:
            UserError: a text is empty.
        """
        settings = self._require("text", self._text)
        for number, text in enumerate(texts):
            if not text.strip():
                raise UserError(f"texts[{number}] is empty: there is nothing to embed")
        samples = (
            Sample(i, "", captions=[settings.prepared(text)]) for i, text in enumerate(texts)
        )
        return self._embed("text", samples, batch_size=batch_size)

    def sounds(self, sounds: Sequence[SoundInput], *, batch_size: int = 32) -> Tensor:
        """Return (N, D) unit-length features, float32 on the CPU.

        Args:
            sounds: paths, encoded bytes, or pairs of a float waveform in [-1, 1] ((T,) or
                (T, channels)) and its sampling rate in Hz.
            batch_size: how many are embedded at once.
        """
        settings = self._require("audio", self._audio)
        samples = (
            Sample(i, "", waveform=load_audio(_sound_bytes(sound), settings, draws=None))
            for i, sound in enumerate(sounds)
        )
        return self._embed("audio", samples, batch_size=batch_size)

    def _require(self, modality: Modality, settings: Any) -> Any:
        if settings is None or modality not in self.task.towers:
            towers = ", ".join(self.task.towers)
            raise UserError(f"this model has no {modality} tower; it has {towers}")
        return settings

    @torch.inference_mode()
    def _embed(self, modality: Modality, samples: Iterator[Sample], *, batch_size: int) -> Tensor:
        layout = Layout(
            modalities=(modality,), labels=False, fields=(), image=self._image, text=self._text
        )
        parts = [torch.zeros(0, self.task.embed_dim)]
        waiting: list[Sample] = []
        for sample in samples:
            waiting.append(sample)
            if len(waiting) == batch_size:
                parts.append(self._embed_batch(modality, collate(waiting, layout)))
                waiting = []
        if waiting:
            parts.append(self._embed_batch(modality, collate(waiting, layout)))
        return torch.cat(parts)

    def _embed_batch(self, modality: Modality, batch: Batch) -> Tensor:
        return self.task.encode(modality, getattr(batch.to(self.device), modality)).cpu()


def _image_bytes(image: ImageInput) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        return _read(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise UserError(f"an image array must be uint8, not {image.dtype}")
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _sound_bytes(sound: SoundInput) -> bytes:
    if isinstance(sound, bytes):
        return sound
    if isinstance(sound, str | Path):
        return _read(sound)
    waveform, sample_rate_hz = sound
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, sample_rate_hz, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
