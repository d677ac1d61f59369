"""Takes a tower from what an earlier run, an export or a published model holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmlight.encoders.encoder import Encoder
from mmlight.encoders.lora import LoraSettings, add_adapters, merge_adapters
from mmlight.errors import UserError, nearest
from mmlight.modality import Modality
from mmlight.optim.adamw import AdamWSettings
from mmlight.published.read import PUBLISHED, read_model
from mmlight.renamed import present_names, present_settings
from mmlight.saved.checkpoint import Saved, different_tensors
from mmlight.saved.rebuild import rebuild, rebuild_settings
from mmlight.tasks.tuning import Tuning


@dataclass(frozen=True)
class Source:
    """A tower of an earlier task.

    Attributes:
        path: the file or folder it was read from.
        encoder: the encoder with its weights, adapters merged.
        projection: weights of its projection by name; empty where it had none.
        piece_pool: likewise of what pools the pieces of a sample.
        lr: the peak learning rate it was trained with; None where that is not known.
        left_over: what else the file holds: names of towers and of the task's own parts.
        preparation: how the inputs of its modality were prepared, as the file says.
        is_whole: whether the task begins with all of that model, its tokenizer included.
    """

    path: Path
    encoder: Encoder
    projection: dict[str, Tensor]
    piece_pool: dict[str, Tensor]
    lr: float | None
    left_over: list[str]
    preparation: Mapping[str, Any]
    is_whole: bool = False


def read_source(
    given: str, modality: Modality, *, changes: Mapping[str, Any] | None = None
) -> Source:
    """Read a tower.

    Args:
        given: as for `locate`.
        modality: which tower.
        changes: settings of the encoder that are other than there.

    Raises:
        UserError: nothing there, no tower for this modality, a damaged file, or changes to what the
            encoder has not, or that its weights do not fit.
    """
    key = f"model.towers.{modality}.from_run"
    path, saved = read_model(given, key=key)
    return take_source(saved, modality, path=path, key=key, changes=changes)


def described_towers(saved: Saved) -> dict[str, Any]:
    """Return what a model's description says of each tower that it has."""
    towers = saved.description["init_args"].get("towers") or {}
    return {name: tower for name, tower in towers.items() if tower}


def take_source(
    saved: Saved,
    modality: Modality,
    *,
    path: Path,
    key: str,
    changes: Mapping[str, Any] | None,
    is_whole: bool = False,
) -> Source:
    """Take a tower out of a model that was read; arguments and errors as of `read_source`."""
    arguments: dict[str, Any] = saved.description["init_args"]
    towers = described_towers(saved)
    if modality not in towers:
        raise UserError(
            f"{key}: {path} has no {modality} tower; it has {', '.join(towers) or 'none'}"
        )
    tower = towers[modality]
    described = tower.get("encoder") if isinstance(tower, Mapping) else None
    encoder = _trained_encoder(saved, modality, described, key=key, changes=changes or {})
    projection = under(saved.tensors, f"towers.{modality}.projection.")
    others = {".".join(n.split(".")[: 2 if n.startswith("towers.") else 1]) for n in saved.tensors}
    optimizer = arguments.get("optimizer")
    lr = optimizer.get("lr") if isinstance(optimizer, Mapping) else None
    if PUBLISHED not in (saved.preprocessing or {}) and not isinstance(lr, int | float):
        lr = AdamWSettings.lr
    # With a whole model its other parts are taken, too.
    taken = (
        {"objective", *(f"towers.{name}" for name in towers)}
        if is_whole
        else {f"towers.{modality}"}
    )
    prepared = (saved.preprocessing or {}).get(modality)
    return Source(
        path=path,
        encoder=encoder,
        projection=projection,
        piece_pool=under(saved.tensors, f"towers.{modality}.piece_pool."),
        lr=float(lr) if isinstance(lr, int | float) else None,
        left_over=sorted(others - taken),
        preparation=prepared if isinstance(prepared, Mapping) else {},
        is_whole=is_whole,
    )


def load_encoder(encoder: Encoder, source: Source, *, key: str) -> None:
    """Give an encoder of the user's own settings the weights of a run.

    Raises:
        UserError: names or shapes differ; it says which.
    """
    problem = different_tensors(source.encoder.state_dict(), encoder.state_dict())
    if problem:
        raise UserError(f"{key}: the encoder set here is not that of {source.path}: {problem}")
    encoder.load_state_dict(source.encoder.state_dict())
    encoder.prepare_like(source.encoder)


def load_part(part: nn.Module, tensors: dict[str, Tensor]) -> bool:
    """Give a tower's projection or pool the weights of a run if they fit; say whether they did."""
    wanted = part.state_dict()
    if not wanted or different_tensors(tensors, wanted):
        return False
    part.load_state_dict(tensors)
    return True


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _merged(own: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(own)
    for name, value in changes.items():
        before = own.get(name)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        merged[name] = _merged(before, value) if both else value  # type: ignore[arg-type]
    return merged


def _trained_encoder(
    saved: Saved,
    modality: Modality,
    described: Any,
    *,
    key: str,
    changes: Mapping[str, Any],
) -> Encoder:
    described = present_names(described)
    if changes:
        own = described.get("init_args") if isinstance(described, Mapping) else None
        own = own if isinstance(own, Mapping) else {}
        changes = present_settings(described.get("class_path"), changes) if own else changes
        unknown = next((name for name in changes if name not in own), None)
        if unknown is not None:
            raise UserError(
                f"model.towers.{modality}.changes: the encoder has no setting '{unknown}'"
                f"{nearest(unknown, own)}; it has {', '.join(own)}"
            )
        described = {**described, "init_args": _merged(own, changes)}
    encoder: Encoder = rebuild(described, base=Encoder)
    tensors = under(saved.tensors, f"towers.{modality}.encoder.")
    if changes:
        tensors = encoder.fitted(tensors)  # another image size may be asked for
    tuning: Tuning = rebuild_settings(
        saved.description["init_args"].get("tuning") or {}, Tuning, key=f"{key}: tuning"
    )
    if tuning.method in ("lora", "dora"):
        add_adapters(encoder, tuning.lora or LoraSettings(), method=tuning.method)
    problem = different_tensors(tensors, encoder.state_dict())
    if problem:
        other = "the changes" if changes else "itself"
        raise UserError(f"{key}: the {modality} tower of the file does not fit {other}: {problem}")
    encoder.load_state_dict(tensors)
    merge_adapters(encoder)
    return encoder
