"""``mmlight init FOLDER``: a folder to begin in, with experiments that run as they stand."""

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmlight.data.own.experiments import experiments
from mmlight.data.own.look import FoundData, command, look
from mmlight.errors import UserError
from mmlight.files import write_bytes
from mmlight.terminal import say

_PACKAGE = Path(__file__).resolve().parents[1]
# Below the package in an installed wheel, beside it in a checkout. Benchmarks and pictures of the
# checkout are not for a folder of one's own.
_PLACES = (_PACKAGE / "material", _PACKAGE.parent)
_FOLDERS = (
    *(
        f"experiments/{n}"
        for n in ("base", "data", "finetune", "own", "papers", "pretrain", "suites", "sweeps")
    ),
    "experiments/towers",
    "slurm/clusters",
)
_ENDINGS = (".yaml", ".txt", ".py", ".md", ".json", ".png")
_OWN_MODULE = "experiments/own/my_module.py"


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight init``."""
    parser = argparse.ArgumentParser(
        prog="mmlight init",
        description="Write a folder to begin in: the experiments, cards of papers, profiles of "
        "clusters, a module for classes of your own; with --data also a data file and experiments "
        "for what lies there. What is there already is kept.",
        epilog="example: mmlight init lab --data photos/",
    )
    parser.add_argument("folder", type=Path, help="where to; it is made if it is not there")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="your data: a folder per class, files with a .txt of the same name each, a table of "
        "paths, captions, labels, or shards",
    )
    parser.add_argument("--name", help="what to call the data (default: as PATH is called)")
    parser.add_argument("--encoding", help="of a table that is not UTF-8, such as cp1252")
    options = parser.parse_args(argv)
    if options.name and not options.data:
        raise UserError("--name is for --data PATH, which is not given")
    if options.encoding and not options.data:
        raise UserError("--encoding is for --data PATH, which is not given")
    data = options.data and options.data.expanduser()
    found = look(data, encoding=options.encoding) if data else None
    name = _checked_name(options.name or found.path.resolve().stem) if found else ""
    own = experiments(found, name=name) if found else {}
    for path, text in own.items():
        target = options.folder / path
        if target.exists() and target.read_text() != text:
            raise UserError(f"{target} is there already and differs; --name gives another name")
    if options.folder.exists() and not options.folder.is_dir():
        raise UserError(f"{options.folder} is a file; name a folder")
    written = sum(_write(options.folder / path, text) for path, text in _material())
    for path, text in own.items():
        _write(options.folder / path, text)
    say(f"{options.folder}: {written} files of experiments, papers, clusters, my_module.py")
    if found:
        say(found.summary(), *(f"  {line}" for line in found.lines))
        say(*(f"wrote {options.folder / path}" for path in own))
    say("next:", *(f"  {line}" for line in _next(options.folder, found, name, list(own))))
    return 0


def _checked_name(name: str) -> str:
    checked = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-")
    if not checked:
        raise UserError(f"--name {name!r}: needs a letter or a digit")
    return checked


def material_folder(name: str) -> Path:
    """Return where this installation has a folder that `init` writes, such as experiments/data."""
    source = next((p / name for p in _PLACES if (p / name).is_dir()), None)
    if source is None:
        raise UserError(f"this installation of mmlight lacks {name}: install it again")
    return source


def _material() -> Iterator[tuple[str, bytes]]:
    """Yield the files to write, with their contents."""
    for folder in _FOLDERS:
        source = material_folder(folder)
        for path in sorted(source.rglob("*")):
            if path.suffix in _ENDINGS:
                name = f"{folder}/{path.relative_to(source).as_posix()}"
                yield path.name if name == _OWN_MODULE else name, path.read_bytes()


def _write(path: Path, content: bytes | str) -> bool:
    """Write a file if there is none; return whether there was none."""
    if path.exists():
        return False
    write_bytes(path, content if isinstance(content, bytes) else content.encode())
    return True


def _next(folder: Path, found: FoundData | None, name: str, own: Sequence[str]) -> Iterator[str]:
    if folder.resolve() != Path.cwd():
        yield f"cd {folder}"
    if found is None:
        yield command("scenes", "data/scenes") + "    # makes a small data set"
        yield command("fit", "-c", "experiments/own/scenes_focal.yaml") + "    # 1 minute"
        return
    for split, arguments in found.packs.items():
        source, *options = arguments
        out = f"data/{name}/{split}"
        yield command("shards", "pack", Path(source).resolve(), out, *options)
    for path in own:
        if not path.startswith("experiments/data/"):
            yield command("fit", "-c", path)
    inputs = "PATH" if {"image", "audio"} & set(found.members) else "TEXTS.txt"
    yield command("predict", "--ckpt_path", f"runs/{name}", "--data.predict.files", inputs)
    yield command("list", "objectives") + "    # what else there is: tasks, encoders, heads"
