"""Reads the files of `torch.distributed.checkpoint` without running what is in them.

torch's own reader unpickles the list of tensors (``.metadata``), and each value that is no tensor,
with all that pickle allows; a checkpoint from elsewhere could run any code.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import (
    DefaultLoadPlanner,
    _EmptyStateDictLoadPlanner,
)
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

# What the list of tensors is made of: classes that hold values and do nothing.
_METADATA, _FILES = (
    "torch.distributed.checkpoint.metadata",
    "torch.distributed.checkpoint.filesystem",
)
_ALLOWED = {
    (_METADATA, "BytesStorageMetadata"),
    (_METADATA, "ChunkStorageMetadata"),
    (_METADATA, "Metadata"),
    (_METADATA, "MetadataIndex"),
    (_METADATA, "StorageMeta"),
    (_METADATA, "TensorProperties"),
    (_METADATA, "TensorStorageMetadata"),
    (_METADATA, "_MEM_FORMAT_ENCODING"),
    (_FILES, "_StorageInfo"),
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),  # Python 3.13's name for it
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
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
        with self.fs.create_stream(self._get_metadata_path(), "rb") as file:
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
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"names {module}.{name}")
        return super().find_class(module, name)


class _PlainValues:
    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Read a value that is no tensor, if it is a plain one."""
        plain = torch.load(value, weights_only=True)
        buffer = io.BytesIO()
        torch.save(plain, buffer)
        super().load_bytes(read_item, io.BytesIO(buffer.getvalue()))  # type: ignore[misc]


class WholePlanner(_PlainValues, _EmptyStateDictLoadPlanner):
    """Reads all that a folder holds."""


class GivenPlanner(_PlainValues, DefaultLoadPlanner):
    """Reads what a state dict asks for."""
