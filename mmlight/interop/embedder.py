"""Embeds images, sentences and sounds with a trained model, in a few lines of Python.

Shapes as in `mmlight.batch`: N inputs, D joint width.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from mmlight.batch import Batch, Modality
from mmlight.data.collate import Layout, collate
from mmlight.data.decode.audio import AudioSettings, load_audio
from mmlight.data.decode.image import ImageSettings, load_image
from mmlight.data.sample import Sample
from mmlight.data.text import TextSettings
from mmlight.errors import UserError
from mmlight.interop.inputs import (
    ImageInput,
    SoundInput,
    decoded,
    image_bytes,
    name_of,
    sound_bytes,
)
from mmlight.interop.saved_config import kept_text, plain_names
from mmlight.saved.rebuild import rebuild_settings
from mmlight.tasks.task import Task, load_task

T = TypeVar("T")


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

    def __init__(self, task: Task, *, device: str | torch.device = "cpu") -> None:
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
        """Load a run's newest checkpoint, a checkpoint, or an exported folder.

        Args:
            path: a run folder, a checkpoint, or an exported folder.
            device: where the model runs.
            trust: modules of your own whose classes the checkpoint may name.

        Raises:
            UserError: there is no checkpoint, it is of another task, damaged, or names classes that
                are not mmlight's.
        """
        task = load_task(path, trust=trust)
        if task.predicts != "features":
            raise UserError(f"{path}: holds a {type(task).__name__}, not a Contrastive task")
        return cls(task, device=device)

    def images(self, images: Sequence[ImageInput], *, batch_size: int = 64) -> Tensor:
        """Return (N, D) unit-length features, float32 on the CPU.

        Args:
            images: paths, encoded bytes, PIL images, or (H, W, 3) or (H, W) uint8 arrays.
            batch_size: how many are embedded at once.

        Raises:
            UserError: naming the file, or the place, of what cannot be read.
        """
        settings = self._require("image", self._image)
        decode = partial(load_image, settings=settings, draws=None)
        samples = (
            Sample(i, name, pixels_CHW=decoded(decode, image_bytes(image, name=name), name=name))
            for i, image in enumerate(_as_list(images, "images"))
            for name in [name_of(image, i)]
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
            Sample(i, "", captions=[settings.prepared(_text(text, i))])
            for i, text in enumerate(_as_list(texts, "texts"))
        )
        return self._embed("text", samples, batch_size=batch_size)

    def sounds(self, sounds: Sequence[SoundInput], *, batch_size: int = 32) -> Tensor:
        """Return (N, D) unit-length features, float32 on the CPU.

        Args:
            sounds: paths, encoded bytes, or pairs of a waveform ((T,) or (T, channels); floats in
                [-1, 1], or whole numbers, which are scaled by their type) and its sampling rate in
                Hz.
            batch_size: how many are embedded at once.

        Raises:
            UserError: naming the file, or the place, of what cannot be read.
        """
        settings = self._require("audio", self._audio)
        decode = partial(load_audio, settings=settings, draws=None)
        samples = (
            Sample(i, name, waveform=decoded(decode, sound_bytes(sound, name=name), name=name))
            for i, sound in enumerate(_as_list(sounds, "sounds"))
            for name in [name_of(sound, i)]
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
        parts = [torch.zeros(0, self.task.tower(modality).out_dim)]
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


def _as_list(inputs: Sequence[T], what: str) -> list[T]:
    # A path is a sequence of letters, and a pair of samples and rate one of two sounds.
    if isinstance(inputs, str | bytes | Path):
        raise UserError(f"{what} must be a list, not one {type(inputs).__name__}: [{inputs!r:.60}]")
    return list(inputs)


def _text(given: object, place: int) -> str:
    if not isinstance(given, str):
        raise UserError(f"texts[{place}] is a {type(given).__name__}, not a text")
    return given
