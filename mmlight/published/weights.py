"""Tensors of a file that another project wrote, in float32; nothing else of it is looked at."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mmlight.errors import UserError


def read_weights(path: Path, *, key: str) -> dict[str, Tensor]:
    """Read a state dict.

    Args:
        path: a file of safetensors, or of ``torch.save``, of which only tensors and plain values
            are unpickled.
        key: the setting that names it, for messages.

    Returns:
        Tensors by name; floats of other widths (bfloat16, half) become float32.

    Raises:
        UserError: it is damaged, or holds more than tensors and plain values.
    """
    found = load_plain(path, key=key)
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in found.items()
    ):
        raise UserError(f"{key}: {path} is no state dict: it holds more than tensors by name")
    return {n: t.float() if t.is_floating_point() else t for n, t in found.items()}


def load_plain(path: Path, *, key: str) -> Any:
    """Return what a file of safetensors or of ``torch.save`` holds: tensors and plain values.

    Args:
        path: the file.
        key: the setting that names it, for messages.

    Raises:
        UserError: it is damaged, or holds more than these.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise UserError(
            f"{key}: {path} holds more than tensors and plain values, or is damaged; it is not "
            "unpickled; save its state dict as safetensors"
        ) from error
    except Exception as error:  # torch's reader meets foreign bytes with any kind of error
        said = str(error).split("\n")[0][:200]
        raise UserError(f"{key}: {path} is damaged or cut short ({said})") from error
