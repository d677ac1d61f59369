"""Checkpoints in parts: a folder that the ranks of a sharded run wrote together.

Tensors are in the files of `torch.distributed.checkpoint`, everything else in `meta.pt`; the
checksums of all files in `checksums.json`. Optimiser states bear the names of parameters, not their
numbers.

Nothing in them is run. torch's own reader unpickles the list of tensors (``.metadata``), and each
value that is no tensor, with all that pickle allows; so a checkpoint could run any code.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

from mmlight.saved.checksums import folder_damage
from mmlight.saved.locate import META, METADATA
from mmlight.trainer.internals import EmptyLoadPlanner, load_tensors

# The entries of a checkpoint that hold tensors of the model's size.
STATE, OPTIMIZERS, AVERAGE = "state_dict", "optimizer_states", "ema"

# What the list of tensors is made of: classes that hold values and do nothing.
_ALLOWED = {
    "torch.distributed.checkpoint.metadata": {
        *("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex"),
        *("StorageMeta", "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath"},
    "pathlib._local": {"PosixPath"},  # Python 3.13's name for it
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
}


def read_meta(path: Path) -> dict[str, Any]:
    """Return everything but the tensors."""
    meta: dict[str, Any] = torch.load(path / META, map_location="cpu", weights_only=True)
    return meta


def find_damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint in parts, or None.

    Its files are compared with their checksums, and where an earlier version wrote none, their
    sizes with what the ranks wrote.
    """
    if not (path / METADATA).is_file() or not (path / META).is_file():
        return "is not whole"
    if problem := folder_damage(path, names=(META, METADATA)):
        return problem
    try:
        read_meta(path)
        parts = ShardReader(path).read_metadata().storage_data or {}
    except pickle.UnpicklingError as error:
        return f"holds more than tensors and plain values ({error}); nothing of it was run"
    except Exception as error:  # torch raises several kinds for a damaged file
        said = str(error).split("\n")[0]
        return f"cannot be read ({said})"
    if problem := folder_damage(path, names={part.relative_path for part in parts.values()}):
        return problem
    for part in parts.values():
        file = path / part.relative_path
        if not file.is_file() or file.stat().st_size < part.offset + part.length:
            return f"{part.relative_path} is cut short"
    return None


def read_shards(path: Path, *, states: bool = True) -> dict[str, Any]:
    """Return the whole checkpoint on one process, as a run that is not sharded writes it.

    Args:
        path: the folder.
        states: also the states of optimisers and averages.
    """
    found: dict[str, Any] = {}
    reader = ShardReader(path)
    planner = WholePlanner(None if states else {STATE})
    reader.read_metadata()  # says what is wrong; torch would say that there is none
    try:
        load_tensors(found, reader=reader, planner=planner)
    except CheckpointException as error:  # no Exception, so nobody expects it
        raise next(iter(error.failures.values()))[0] from error
    meta = read_meta(path)
    checkpoint = {**meta, STATE: found[STATE]}
    if not states:
        return checkpoint
    if OPTIMIZERS in meta:
        of_each = found.get(OPTIMIZERS, {})
        checkpoint[OPTIMIZERS] = [
            by_number(of_each.get(str(number), {}), groups)
            for number, groups in enumerate(meta[OPTIMIZERS])
        ]
    if AVERAGE in meta:
        checkpoint[AVERAGE] = {"weights": {}, "average": {}, **found[AVERAGE], **meta[AVERAGE]}
    return checkpoint


def by_number(states: dict[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an optimiser's state dict as it numbers parameters, from states by their names.

    Args:
        states: by name of parameter.
        groups: the optimiser's groups; ``params`` lists names.
    """
    names = [name for group in groups for name in group["params"]]
    number = {name: i for i, name in enumerate(names)}
    return {
        "state": {number[name]: state for name, state in states.items()},
        "param_groups": [g | {"params": [number[n] for n in g["params"]]} for g in groups],
    }


def by_name(state: dict[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an optimiser's states by the names of parameters; the inverse of `by_number`.

    Args:
        state: the optimiser's own state dict.
        groups: the groups of the same optimiser, with names.
    """
    names = [name for group in groups for name in group["params"]]
    own = state["param_groups"]
    return {
        "state": {names[i]: value for i, value in state["state"].items()},
        "param_groups": [g | {"params": [names[i] for i in g["params"]]} for g in own],
    }


class ShardReader(FileSystemReader):
    """Reads a folder of tensors; refuses a list of them that names anything else."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return what the folder holds.

        Args:
            args: unused.
            kwargs: unused; there is one list for all ranks.

        Raises:
            UnpicklingError: the list names a function or class that is not of it.
        """
        with self.fs.create_stream(Path(self.path) / METADATA, "rb") as file:
            metadata: Metadata = _ListReader(file).load()
        for part in (metadata.storage_data or {}).values():
            name = part.relative_path
            if Path(name).name != name or part.transform_descriptors:
                raise pickle.UnpicklingError(
                    f"names {name!r}, which is no plain file of the folder"
                )
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _ListReader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if name not in _ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"names {module}.{name}")
        return super().find_class(module, name)


class _PlainValues:
    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Read a value that is no tensor, if it is a plain one."""
        plain = torch.load(value, weights_only=True)
        buffer = io.BytesIO()
        torch.save(plain, buffer)
        super().load_bytes(read_item, io.BytesIO(buffer.getvalue()))  # type: ignore[misc]


class WholePlanner(_PlainValues, EmptyLoadPlanner):
    """Reads all that a folder holds."""


class GivenPlanner(_PlainValues, DefaultLoadPlanner):
    """Reads what a state dict asks for."""
