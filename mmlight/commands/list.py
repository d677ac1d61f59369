"""``mmlight list tasks``: what an experiment may name, read from the source files without torch."""

import argparse
import ast
import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmlight.commands.init import material_folder
from mmlight.errors import UserError
from mmlight.own_modules import FLAG, names_of
from mmlight.terminal import say

_PACKAGE = Path(__file__).resolve().parents[1]
# The folder and the base of each kind of class, and where an experiment names it.
_CLASSES = {
    "tasks": ("tasks", ("Task",), "model.class_path"),
    "encoders": ("encoders", ("Encoder",), "model.towers.NAME.encoder"),
    "objectives": (
        "objectives",
        ("Objective", "LabelObjective", "BoxObjective"),
        "model.objective",
    ),
    "heads": ("heads", ("Fusion", "BoxHead"), "model.fusion, model.head"),
    "tokenizers": ("text", ("Tokenizer",), "data.text.tokenizer"),
}
_FILES = {"datasets": "data", "towers": "towers", "pretrain": "pretrain", "finetune": "finetune"}
# In the comment that a file opens with; further lines of it stand further in.
_PURPOSE = re.compile(r"(?:#.*\n)*?# Purpose: (.*(?:\n#   .*)*)")
_KINDS = (*_CLASSES, *_FILES)


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight list``."""
    parser = argparse.ArgumentParser(
        prog="mmlight list",
        description="What an experiment may name: classes with the first line of their "
        "description, files with their purpose. `mmlight fit --model.help CLASS` tells more of "
        "one.",
    )
    parser.add_argument("kind", choices=_KINDS, metavar="|".join(_KINDS))
    parser.add_argument(FLAG, dest="modules", metavar="MODULE", help="your own classes too")
    options = parser.parse_args(argv)
    if options.kind in _FILES:
        rows = list(_experiments(_FILES[options.kind]))
    else:
        rows = list(classes(options.kind, names_of(options.modules, where=FLAG)))
        say(f"{_CLASSES[options.kind][2]}:")
    width = max((len(name) for name, _ in rows), default=0)
    say(*(f"  {name:<{width}}  {text}" for name, text in rows))
    return 0


def classes(kind: str, modules: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield the path and the first line of the description of each class of a kind.

    Args:
        kind: ``tasks``, ``encoders``, ``objectives``, ``heads`` or ``tokenizers``.
        modules: of the user's own, to look into too.

    Raises:
        UserError: there is no such module.
    """
    folder, bases, _ = _CLASSES[kind]
    files = [(f"mmlight.{folder}.{p.stem}", p) for p in sorted((_PACKAGE / folder).glob("*.py"))]
    for name in modules:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise UserError(f"{FLAG} {name}: there is no such module")
        files.append((name, Path(spec.origin)))
    found: list[tuple[str, ast.ClassDef]] = []
    for module, path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [(f"{module}.{n.name}", n) for n in tree.body if isinstance(n, ast.ClassDef)]
    known = set(bases)
    # A base may stand in a file that comes later.
    while more := {node.name for _, node in found if known & set(_bases(node))} - known:
        known |= more
    for name, node in found:
        is_base = node.name.startswith("_") or _is_abstract(node)
        if node.name in known and known & set(_bases(node)) and not is_base:
            yield name, (ast.get_docstring(node) or "").partition("\n")[0]


def _bases(node: ast.ClassDef) -> Iterator[str]:
    for base in node.bases:
        yield base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")


def _is_abstract(node: ast.ClassDef) -> bool:
    if "ABC" in _bases(node):
        return True
    marks = (d for f in node.body if isinstance(f, ast.FunctionDef) for d in f.decorator_list)
    return any(getattr(mark, "id", "") == "abstractmethod" for mark in marks)


def _experiments(folder: str) -> Iterator[tuple[str, str]]:
    """Yield the files of the working directory's experiments, else those that `init` writes."""
    own = Path("experiments", folder)
    place = own if own.is_dir() else material_folder(f"experiments/{folder}")
    for path in sorted(place.glob("*.yaml")):
        found = _PURPOSE.match(path.read_text(encoding="utf-8"))
        yield str(own / path.name), re.sub(r"\n#\s+", " ", found[1]) if found else ""
