"""A model of mmlight as MTEB (and MIEB, MAEB) takes it: ``pip install 'mmlight[mteb]'``.

Example::

    import mteb
    from mmlight.interop.mteb_model import MtebModel

    model = MtebModel("runs/scenes/20260101-120000-abcd")
    mteb.evaluate(model, mteb.get_tasks(["CIFAR10"]))
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlight.errors import UserError
from mmlight.interop.embedder import Embedder


class MtebModel:
    """An encoder as MTEB's `EncoderProtocol` describes it.

    Texts, images and sounds become unit-length joint-space features; a query or document of
    several kinds is the mean of its features, normalised again.

    Args:
        model_name: a run's folder, a checkpoint or an export.
        revision: what results are filed under besides the name; None takes the file's name.
        device: where it runs; None takes the CPU.
        embedder: a model that is loaded already, which `model_name` then only names.

    Raises:
        UserError: there is no such model, or mteb is not installed.
    """

    def __init__(
        self,
        model_name: str | Path,
        revision: str | None = None,
        *,
        device: str | None = None,
        embedder: Embedder | None = None,
        **_: Any,
    ) -> None:
        self.name = "/".join(Path(model_name).parts[-2:])
        self.revision = revision or Path(model_name).name
        self.embedder = embedder or Embedder.load(model_name, device=device or "cpu")

    @cached_property
    def mteb_model_meta(self) -> Any:
        """What MTEB files results under."""
        try:
            from mteb.models.model_meta import ModelMeta, ScoringFunction
        except ImportError as error:
            raise UserError("mteb is not installed: pip install 'mmlight[mteb]'") from error
        towers = self.embedder.task.towers
        return ModelMeta.create_empty(
            {
                "name": self.name if "/" in self.name else f"mmlight/{self.name}",
                "revision": self.revision,
                "n_parameters": sum(p.numel() for p in self.embedder.task.parameters()),
                "modalities": [name for name in ("text", "image", "audio") if name in towers],
                "similarity_fn_name": ScoringFunction.COSINE,
                "framework": ["PyTorch"],
            }
        )

    def encode(self, inputs: Iterable[Mapping[str, Any]], **_: Any) -> np.ndarray:
        """Return features (N, D), float32, of all batches.

        Args:
            inputs: batches with ``text``, ``image`` (PIL) or ``audio`` (array and sampling rate).

        Raises:
            UserError: a batch of what the model has no tower for.
        """
        return torch.cat([self._encode(batch) for batch in inputs]).numpy()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the cosine of each feature of the one and each of the other (N, M)."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the cosine of each two (N,)."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(1)

    def _encode(self, batch: Mapping[str, Any]) -> Tensor:
        found = []
        if batch.get("text") is not None:
            # An empty text is nothing to us; MTEB has some.
            found.append(
                self.embedder.texts([text if text.strip() else "-" for text in batch["text"]])
            )
        if batch.get("image") is not None:
            found.append(self.embedder.images(list(batch["image"])))
        if batch.get("audio") is not None:
            found.append(self.embedder.sounds([_sound(one) for one in batch["audio"]]))
        if not found:
            raise UserError(f"mteb: a batch of {', '.join(batch)} has no text, image or audio")
        return found[0] if len(found) == 1 else F.normalize(torch.stack(found).mean(0), dim=1)


def _sound(given: Any) -> tuple[np.ndarray, int]:
    """Return samples, (T,) or (T, channels), and their rate in Hz."""
    samples = np.asarray(given["array"])
    return (samples.T if samples.ndim == 2 else samples), int(given["sampling_rate"])


def _unit(features: Any) -> Tensor:
    whole = torch.as_tensor(np.asarray(features)).float()
    return F.normalize(whole if whole.ndim == 2 else whole[None], dim=1)
