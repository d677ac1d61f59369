"""A model that is evaluated: what it is called, what it is, and its features of a batch."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlight.batch import Batch
from mmlight.errors import UserError
from mmlight.files import plain
from mmlight.hub_name import hub_name
from mmlight.interop.embedder import Embedder
from mmlight.modality import MODALITIES, Modality
from mmlight.published.read import read_model
from mmlight.runs.run.folder import Run
from mmlight.saved.checkpoint import Saved
from mmlight.tasks.load import build_named


@dataclass
class Model:
    """A model.

    Attributes:
        name: what tables call it.
        path: the checkpoint or export.
        saved: what was read of it.
        digest: SHA-256 of its weights, description and preparation of inputs.
    """

    name: str
    path: Path
    saved: Saved
    digest: str
    _embedder: Embedder | None = field(default=None, repr=False)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What it has towers for."""
        towers = self.saved.description["init_args"].get("towers") or {}
        prepared = self.saved.preprocessing or {}
        return tuple(m for m in MODALITIES if prepared.get(m) and (not towers or towers.get(m)))

    @property
    def has_tokenizer(self) -> bool:
        """Whether it says how texts become tokens; a published one may lack the files for it."""
        return "tokenizer" in ((self.saved.preprocessing or {}).get("text") or {})

    def build(self, device: torch.device) -> Embedder:
        """Return the model with its weights on a device; it is built once."""
        if self._embedder is None:
            task = build_named(self.saved, self.path)
            self._embedder = Embedder(task, device=device)
        return self._embedder

    @property
    def has_joint_space(self) -> bool:
        """Whether modalities can be compared with one another; known once it is built."""
        assert self._embedder is not None
        return self._embedder.task.predicts == "features"

    def encode(self, modality: Modality, batch: Batch) -> Tensor:
        """Return unit-length features, float32: joint ones, else those of the tower alone."""
        assert self._embedder is not None
        task, inputs = self._embedder.task, getattr(batch, modality)
        if self.has_joint_space:
            return task.encode(modality, inputs)
        return F.normalize(task.tower(modality).pooled(inputs).float(), dim=-1)

    def release(self) -> None:
        """Let go of the weights; `build` would make it anew."""
        self._embedder = None


def open_model(given: str, *, names: set[str]) -> Model:
    """Read a model.

    Args:
        given: a run's folder, a checkpoint, an export, a published model or one on the hub;
            ``NAME=PATH`` calls it NAME.
        names: of the models before it, which it must not bear; its own is added.

    Raises:
        UserError: there is none, or it does not say how its inputs are prepared.
    """
    name, equals, rest = given.partition("=")
    if not equals or "/" in name or Path(given).exists():
        name, rest = "", given
    path, saved = read_model(rest, key="--model")
    if saved.preprocessing is None:
        raise UserError(f"--model {rest}: does not say how its inputs were prepared")
    name = name or _name_of(rest, path)
    if name in names:
        raise UserError(f"--model {given}: another model is called '{name}'; write NAME={rest}")
    names.add(name)
    return Model(name, path, saved, digest_of(saved))


def _name_of(given: str, path: Path) -> str:
    """Return what a model on the hub, a run's checkpoint, or another model on disk is called."""
    if (on_hub := hub_name(given)) is not None:
        return on_hub.repository
    place = path.absolute().parent
    return Run(place.parent).label if place.name == "checkpoints" else path.absolute().name


def digest_of(saved: Saved) -> str:
    """Return the SHA-256 of all that a model's features depend on but its inputs."""
    about: Any = {"task": saved.description, "preprocessing": saved.preprocessing}
    found = hashlib.sha256(json.dumps(plain(about), sort_keys=True).encode())
    for name in sorted(saved.tensors):
        tensor = saved.tensors[name].detach().cpu().contiguous()
        found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
