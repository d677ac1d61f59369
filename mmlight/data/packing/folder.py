"""A folder of files: those of one name are a sample, and its first folder may be its class."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmlight.data.decode import probe
from mmlight.data.packing.source import (
    Exclude,
    Given,
    Source,
    SourceFiles,
    StoredFile,
    order_classes,
)
from mmlight.data.shards import tar
from mmlight.data.shards.paths import natural_key
from mmlight.errors import UserError

# What may stand between a sample's name and the ending of its member: x.seg.png, x.left.flac.
_PART = re.compile(r"[a-z][a-z0-9_-]*")


def read_folder(
    folder: Path, given: Given, *, label_from_folder: bool = False, sample_from_folder: bool = False
) -> Source:
    """Return the files below a folder as samples; files that differ only behind a dot are one.

    So ``cats/0001.jpg`` and ``cats/0001.txt`` become sample ``cats/0001`` with jpg and txt, as
    img2dataset writes them, and ``0001.seg.png`` its member seg.png; in ``Track 2.0 (x).png`` the
    first dot is one of the name. Hidden files and files without a dot are left out.

    Args:
        folder: where the files are, at any depth.
        given: what else is said.
        label_from_folder: add the number of the first-level folder in sorted order as ``cls``, the
            layout of ImageNet. Two pictures of one name are two samples then; else they are
            refused.
        sample_from_folder: the files of each folder are one sample, members by their whole names:
            ``walk/clip7/001.jpg`` and ``walk/clip7/caption.txt`` become sample ``walk/clip7`` with
            the members ``001.jpg`` and ``caption.txt``.

    Raises:
        UserError: no such folder, or files that make no samples.
    """
    source = given.open_files(folder)
    files = (
        _group_by_folder(source, given.exclude)
        if sample_from_folder
        else _group(source, given.exclude, one_each=label_from_folder)
    )
    keys = sorted(files, key=natural_key)
    if not keys:
        raise UserError(f"{folder} holds no file with an extension")
    classes: list[str] = []
    if label_from_folder:
        if loose := [key for key in keys if "/" not in key]:
            raise UserError(f"'{loose[0]}' lies in no class folder of {folder}")
        found = {key.split("/")[0] for key in keys}
        classes = order_classes(found, given.class_names, where=f"folder {folder}")
    number_of = {name: number for number, name in enumerate(classes)}

    def samples() -> Iterator[dict[str, Any]]:
        for key in keys:
            sample: dict[str, Any] = {"__key__": key}
            for extension, path in files[key].items():
                sample[extension] = StoredFile(source, path, f"folder {folder}")
            if classes:
                if "cls" in sample:
                    raise UserError(f"sample '{key}': a second member '.cls'")
                sample["cls"] = number_of[key.split("/")[0]]
            yield sample

    return Source(samples(), classes)


def _group(source: SourceFiles, exclude: Exclude, *, one_each: bool) -> dict[str, dict[str, Path]]:
    samples: dict[str, dict[str, Path]] = {}
    for path in source.walk():
        name = path.relative_to(source.folder).as_posix()
        parts = split_file_name(name)
        if parts is None or exclude(name):
            continue
        key, extension = parts
        if extension == "tar":
            raise UserError(f"{path} is a shard already; give a folder of plain files")
        if other := samples.setdefault(key, {}).get(extension):
            raise UserError(f"{path} and {other} are the same member of sample '{key}'")
        samples[key][extension] = path
    exclude.check()
    for key in list(samples):
        twins = _twins(samples[key])
        if len(twins) < 2:
            continue
        if not one_each or len(twins) < len(samples[key]):
            first, second = (samples[key][extension] for extension in twins[:2])
            raise UserError(
                f"{first} and {second} have one name, so they would be one sample: rename one "
                f"(a mask, say, to {first.stem}.mask{second.suffix}), or leave it out by --exclude"
            )
        for extension, path in samples.pop(key).items():
            other_key = f"{key}_{extension}"
            if other_key in samples:
                raise UserError(f"{path} and {next(iter(samples[other_key].values()))}: rename one")
            samples[other_key] = {extension: path}
    return samples


def _group_by_folder(source: SourceFiles, exclude: Exclude) -> dict[str, dict[str, Path]]:
    samples: dict[str, dict[str, Path]] = {}
    for path in source.walk():
        name = path.relative_to(source.folder).as_posix()
        if tar.split_name(name) is None or exclude(name):
            continue
        folder, _, base = name.rpartition("/")
        if not folder:
            raise UserError(f"{path} lies in no folder of its own, which would be its sample")
        top, slash, last = folder.rpartition("/")
        stem, _, ending = base.lower().rpartition(".")
        members = samples.setdefault(f"{top}{slash}{last.replace('.', '_')}", {})
        if other := members.get(member := f"{stem.replace('.', '_')}.{ending}"):
            raise UserError(f"{path} and {other} are the same member of one sample; rename one")
        members[member] = path
    exclude.check()
    return samples


def _twins(files: dict[str, Path]) -> list[str]:
    """Return the endings of a sample's files that are all pictures, or all sounds."""
    for kind in ("image", "audio"):
        found = [ending for ending in files if "." not in ending and probe.kind(ending) == kind]
        if len(found) > 1:
            return sorted(found)
    return []


def split_file_name(name: str) -> tuple[str, str] | None:
    """Return the key of the sample that a file belongs to, and its member; None of no member.

    Args:
        name: path of the file below the folder that is packed.
    """
    parts = tar.split_name(name)
    if parts is None:
        return None
    *between, ending = parts[1].split(".")
    if all(_PART.fullmatch(part) for part in between):
        return parts
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.rpartition('.')[0].replace('.', '_')}", ending
