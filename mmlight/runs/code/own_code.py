"""The user's own code: what Python imports from elsewhere than mmlight and what is installed.

These are the folders that ``PYTHONPATH`` names, and those that hold the packages of classes that
the configuration names (and modules that it imports) and that git knows, such as one in the working
directory, or one installed by ``pip install --editable``.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from mmlight.own_modules import KEY, names_of
from mmlight.runs.code.git import Git, copied_top, is_known, read_git

PATH = "PYTHONPATH"


@dataclass(frozen=True)
class OwnCode:
    """A folder that Python imports the user's own code from.

    Attributes:
        folder: the folder.
        git: the state of its work tree, `prefix` leading to the folder; None outside of git.
    """

    folder: Path
    git: Git | None

    def described(self) -> dict[str, Any]:
        """Return everything but the patch, in JSON's types."""
        return {"folder": str(self.folder), **(self.git.described() if self.git else {})}


def read_own_code(
    config: Mapping[str, Any] | None = None,
    *,
    ours: Path | None,
    environ: Mapping[str, str] = os.environ,
) -> list[OwnCode]:
    """Return the user's own code, in the order in which Python looks at the folders.

    A folder of a copy that a job runs stands for the one that was copied, which may come later in
    the same ``PYTHONPATH``.

    Args:
        config: the resolved configuration, whose classes may come from further folders.
        ours: the folder that mmlight is imported from.
        environ: the environment variables.
    """
    found: dict[tuple[str, str], OwnCode] = {}
    for folder in _folders(config or {}, environ):
        git = _read(folder)
        key = (git.top, git.prefix) if git else (str(folder), "")
        if ours is None or folder != ours.resolve():
            found.setdefault(key, OwnCode(folder, git))
    if ours is not None and (git := _read(ours.resolve())) is not None:
        found.pop((git.top, git.prefix), None)
    return list(found.values())


def class_paths(value: Any) -> Iterator[str]:
    """Yield the classes of other packages than mmlight that a configuration names.

    Args:
        value: the configuration, or a part of it.
    """
    if isinstance(value, Mapping):
        path = value.get("class_path")
        if isinstance(path, str) and not path.startswith("mmlight."):
            yield path
    children = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, Mapping | list):
        for child in children:
            yield from class_paths(child)


def named_modules(config: Mapping[str, Any]) -> list[str]:
    """Return the user's own modules and classes that a configuration has imported, sorted."""
    return sorted({*class_paths(config), *names_of(config.get(KEY), where=KEY)})


def _folders(config: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[Path]:
    for entry in filter(None, environ.get(PATH, "").split(os.pathsep)):
        if Path(entry).is_dir():
            yield Path(entry).resolve()
    for package in sorted({name.partition(".")[0] for name in named_modules(config)}):
        spec = PathFinder.find_spec(package)
        places = list(spec.submodule_search_locations or ()) if spec else []
        place = places[0] if places else spec.origin if spec else None
        if place is not None and is_known((own := Path(place).resolve()).parent, own.name):
            yield own.parent


def _read(folder: Path) -> Git | None:
    """Return the state of a folder's work tree; None where git ignores all that is in it."""
    git = read_git(folder) if is_known(folder) else None
    copy = copied_top(folder)
    if git is None or copy is None:
        return git
    inner = folder.relative_to(copy)
    return replace(git, prefix=f"{inner}/" if inner.parts else "")
