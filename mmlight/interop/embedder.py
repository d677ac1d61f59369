"""Embeds images, sentences and sounds with a trained model, in a few lines of Python.

Shapes as in `mmlight.batch`: N inputs, D joint width.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from mmlight.data.collate import Layout, collate
from mmlight.data.decode.audio import AudioSettings, Waveform, load_windows
from mmlight.data.decode.draw import evenly_spaced
from mmlight.data.decode.image import ImageSettings, load_image
from mmlight.data.sample import Sample
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
from mmlight.modality import Modality
from mmlight.saved.rebuild import rebuild_settings
from mmlight.tasks.load import load_task
from mmlight.tasks.task import Task

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

    Attributes:
        settings: how inputs of each modality are prepared, as the data module takes them.

    Raises:
        UserError: the checkpoint does not say how inputs are prepared.
    """

    def __init__(self, task: Task, *, device: str | torch.device = "cpu") -> None:
        if task.preprocessing is None:
            raise UserError("the checkpoint does not say how its inputs were prepared")
        self.task = task.eval().to(device)
        self.device = torch.device(device)
        self.class_names: list[str] = plain_names(task.preprocessing)
        self.settings: dict[str, Any] = {}
        for name, kind in (("image", ImageSettings), ("audio", AudioSettings)):
            if kept := task.preprocessing.get(name):
                self.settings[name] = rebuild_settings(kept, kind, key=f"data.{name}")
        if kept := task.preprocessing.get("text"):
            self.settings["text"] = kept_text(kept)

    @classmethod
    def load(
        cls, path: str | Path, *, device: str | torch.device = "cpu", trust: Sequence[str] = ()
    ) -> "Embedder":
        """Load a run's newest checkpoint, a checkpoint, an export, or a published model.

        Args:
            path: a run folder, a checkpoint, an exported folder, or a model of open_clip or
                transformers.
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

    def images(
        self, images: Sequence[ImageInput | Sequence[ImageInput]], *, batch_size: int = 64
    ) -> Tensor:
        """Return (N, D) unit-length features, float32 on the CPU.

        Args:
            images: paths, encoded bytes, PIL images, or (H, W, 3) or (H, W) uint8 arrays; a list of
                these is a video, of whose frames so many are embedded as the data of training took
                (all of them, where it had images) and make one vector.
            batch_size: how many are embedded at once.

        Raises:
            UserError: naming the file, or the place, of what cannot be read.
        """
        settings: ImageSettings = self._require("image")
        load = partial(load_image, settings=settings, draws=None)

        def decode(given: ImageInput | Sequence[ImageInput], name: str) -> list[Tensor]:
            frames: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
            if not frames or (len(frames) > 1 and settings.fits):
                why = "this model's images keep their proportions" if frames else "it is empty"
                raise UserError(f"{name}: a list of frames can't be embedded: {why}")
            places = evenly_spaced(len(frames), settings.frames or len(frames))
            return [decoded(load, image_bytes(frames[p], name=name), name=name) for p in places]

        samples = _samples(images, "images", "pixels", decode)
        return self._embed("image", samples, batch_size=batch_size)

    def texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """Return (N, D) unit-length features, float32 on the CPU.

        Raises:
            UserError: a text is empty.
        """
        settings = self._require("text")
        samples = []
        for place, text in enumerate(_as_list(texts, "texts")):
            if not isinstance(text, str):
                raise UserError(f"texts[{place}] is a {type(text).__name__}, not a text")
            if not text.strip():
                raise UserError(f"texts[{place}] is empty: there is nothing to embed")
            samples.append(Sample(place, "", captions=[settings.prepared(text)]))
        return self._embed("text", iter(samples), batch_size=batch_size)

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
        load = partial(load_windows, settings=self._require("audio"), draws=None)

        def decode(given: SoundInput, name: str) -> list[Waveform]:
            return decoded(load, sound_bytes(given, name=name), name=name)

        samples = _samples(sounds, "sounds", "waveforms", decode)
        return self._embed("audio", samples, batch_size=batch_size)

    def _require(self, modality: Modality) -> Any:
        if modality not in self.settings or modality not in self.task.towers:
            towers = ", ".join(self.task.towers)
            raise UserError(f"this model has no {modality} tower; it has {towers}")
        return self.settings[modality]

    @torch.inference_mode()
    def _embed(self, modality: Modality, samples: Iterator[Sample], *, batch_size: int) -> Tensor:
        image, text = self.settings.get("image"), self.settings.get("text")
        layout = Layout(modalities=(modality,), labels=False, fields=(), image=image, text=text)
        parts = [torch.zeros(0, self.task.tower(modality).out_dim)]
        while waiting := list(islice(samples, batch_size)):
            batch = collate(waiting, layout).to(self.device)
            parts.append(self.task.encode(modality, getattr(batch, modality)).cpu())
        return torch.cat(parts)


def _samples(
    inputs: Sequence[T],
    what: str,
    member: str,
    decode: Callable[[T, str], Any],
) -> Iterator[Sample]:
    """Yield inputs as samples, each read and decoded when its turn comes."""
    for place, given in enumerate(_as_list(inputs, what)):
        name = name_of(given, place)
        yield Sample(place, name, **{member: decode(given, name)})


def _as_list(inputs: Sequence[T], what: str) -> list[T]:
    # A path is a sequence of letters, and a pair of samples and rate one of two sounds.
    if isinstance(inputs, str | bytes | Path):
        raise UserError(f"{what} must be a list, not one {type(inputs).__name__}: [{inputs!r:.60}]")
    return list(inputs)
