"""``mmlight export``: a model as safetensors, ONNX and `torch.export`, with a model card."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

from mmlight.data.module import ShardDataModule
from mmlight.data.splits.plain_files import PredictSplit
from mmlight.errors import UserError
from mmlight.files import write_json
from mmlight.interop.export_formats import (
    INSTALL,
    Known,
    Traced,
    Written,
    compare,
    know,
    trace,
    write_onnx,
    write_torch,
)
from mmlight.interop.export_inputs import Look, Sizes, inputs_of_batch, make_inputs
from mmlight.interop.model_card import write_card
from mmlight.interop.predictor import Predictor
from mmlight.interop.saved_config import data_config
from mmlight.published.hf.write import write_transformers
from mmlight.published.open_clip.write import write_open_clip
from mmlight.published.read import PUBLISHED, read_model
from mmlight.saved.checkpoint import Saved, write_export
from mmlight.saved.locate import TASK, Found, locate
from mmlight.saved.rebuild import check_description
from mmlight.tasks.graph import MEANINGS, Graph
from mmlight.tasks.load import build_task
from mmlight.tasks.task import Task
from mmlight.terminal import say

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
PUBLISHED_FORMATS: dict[str, Callable[[Path, Saved], Any]] = {
    "open_clip": write_open_clip,
    "transformers": write_transformers,
}
# Sizes that differ from one another and from those of the others: an exporter that takes one for
# a constant is found out.
_TRACED = Sizes(batch=3, part=0.7)
_COMPARED: tuple[tuple[Sizes, Look], ...] = (
    (Sizes(batch=1, part=1.0), "noise"),
    (Sizes(batch=2, part=0.33), "noise"),
    (Sizes(batch=5, part=0.71), "smooth"),
    (Sizes(batch=4, part=0.5), "smooth"),
    (Sizes(batch=3, part=0.125), "noise"),
)
_MOST_SAMPLES = 32


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight export``; return 1 if a format that was asked for could not be written."""
    parser = argparse.ArgumentParser(
        prog="mmlight export",
        description="Write a trained model into a folder: weights (safetensors), task and "
        "preprocessing (JSON), which `from_run` and mmlight.interop.predictor read; ONNX and "
        f"torch.export programs, compared with PyTorch; a model card. ONNX needs {INSTALL}.",
    )
    parser.add_argument("source", help="a run's folder, a checkpoint, an export, a published model")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument(
        "--format",
        help=f"comma-separated: {', '.join(FORMATS)}, or none for the weights alone (default: "
        f"each of these that works); {' or '.join(PUBLISHED_FORMATS)} is a folder inside, which "
        "that project loads",
    )
    parser.add_argument(
        "--samples",
        nargs="+",
        metavar="PATH",
        help=f"real files to compare on too, besides made ones (at most {_MOST_SAMPLES} samples)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    parser.add_argument(
        "--import", metavar="MODULE", help="a module of your own whose classes it may name"
    )
    options = parser.parse_args(argv)
    formats = _formats(options.format)
    check_out(options.out, overwrite=options.overwrite)
    with made_whole(options.out) as partial:
        written = export(options.source, partial, formats=formats, samples=options.samples or ())
    for one in written:
        say(one, file=sys.stderr if one.problem else sys.stdout)
    say(f"export: {options.out}")
    return 1 if options.format and any(one.problem for one in written) else 0


@contextmanager
def made_whole(out: Path) -> Iterator[Path]:
    """Give a folder to write into, which takes the place of `out` when all is written.

    Args:
        out: the folder; what is there is replaced.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield partial
        partial.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def export(
    source: str | Path,
    out: Path,
    *,
    formats: Sequence[str],
    samples: Sequence[str] = (),
    key: str = "export",
    arch: str | None = None,
) -> list[Written]:
    """Write a checkpoint's export into a folder that exists.

    Args:
        source: a run's folder, a checkpoint, an export or a published model.
        out: the folder.
        formats: out of `FORMATS` and `PUBLISHED_FORMATS`.
        samples: files of real samples to compare on.
        key: the verb, for messages.
        arch: see `mmlight.published.read.read_model`.

    Raises:
        UserError: the checkpoint cannot be read or does not say how its inputs are prepared.
    """
    source, saved = read_model(source, key=key, arch=arch)
    is_own = PUBLISHED not in (saved.preprocessing or {})
    found = locate(source, key=key) if is_own else Found(source, "export", None)
    if saved.preprocessing is None:
        raise UserError(f"{source}: does not say how its inputs were prepared")
    check_description(data_config(saved.preprocessing, path=source), base=ShardDataModule)
    # Compiled blocks are no different, and cannot be traced.
    settings = saved.description["init_args"] | {"compile": "none"}
    saved = replace(saved, description=saved.description | {"init_args": settings})
    task = build_task(saved)
    num_merged = task.merge_adapters()
    plain = Saved(task.rebuild_description(), task.preprocessing, task.state_dict())
    write_export(out, plain)
    written: list[Written] = []
    graphs: list[Graph] = []
    for name in (name for name in formats if name in PUBLISHED_FORMATS):
        # Another project finds there what it looks for, and no file of ours.
        (out / name).mkdir()
        PUBLISHED_FORMATS[name](out / name, plain)
        written.append(Written(f"{name}/"))
    formats = [name for name in formats if name in FORMATS]
    if formats:
        batches = _real_batches(task, source, samples)
        try:
            graphs = task.graphs()
        except UserError as error:
            names = [f"model{FORMATS[name]}" for name in formats]
            written += [Written(name, problem=str(error)) for name in names]
        for graph in graphs:
            graph.eval().requires_grad_(False)
            written += _write_graph(graph, task.preprocessing or {}, out, formats, batches)
    report = {
        "source": str(source),
        "num_merged_adapters": num_merged,
        "files": list(map(asdict, written)),
    }
    write_json(out / "export.json", report)
    meanings = MEANINGS | {name: what for g in graphs for name, what in g.outputs.items()}
    write_card(out / "README.md", task, found, written, num_merged=num_merged, meanings=meanings)
    return written


def _write_graph(
    graph: Graph,
    preprocessing: dict[str, Any],
    out: Path,
    formats: Sequence[str],
    batches: Sequence[Any],
) -> list[Written]:
    made = [
        make_inputs(graph, preprocessing, sizes=sizes, look=look, seed=seed)
        for seed, (sizes, look) in enumerate(_COMPARED)
    ]
    made += [inputs_of_batch(graph, batch) for batch in batches]
    known = know(graph, made)
    example = make_inputs(graph, preprocessing, sizes=_TRACED, look="noise", seed=len(made))
    files = {name: f"{graph.name}{FORMATS[name]}" for name in formats}
    try:
        traced = trace(graph, example)
    except UserError as error:
        return [Written(file, problem=str(error)) for file in files.values()]
    return [_write(graph, traced, known, out / file, name) for name, file in files.items()]


def _write(
    graph: Graph, traced: Traced, known: Sequence[Known], path: Path, format: str
) -> Written:
    about = Written(path.name, traced.axes, list(graph.outputs), traced.limits)
    try:
        run = write_onnx(graph, traced, path) if format == "onnx" else write_torch(traced, path)
        return replace(about, difference=compare(graph, traced, run, known))
    except UserError as error:
        # A file whose answers are not the model's is worse than none.
        for file in (path, path.with_name(f"{path.name}.data")):
            file.unlink(missing_ok=True)
        return replace(about, problem=str(error))


def _real_batches(task: Task, source: Path, samples: Sequence[str]) -> list[Any]:
    if not samples:
        return []
    loader = Predictor(task, source=source).batches(
        PredictSplit(files=list(samples)), batch_size=_MOST_SAMPLES, square=True
    )
    batches = list(islice(loader, 1))
    if not bool(batches[0].valid_B.any()):
        raise UserError(f"--samples: none can be read; the first: {batches[0].bad[0].reason}")
    return batches


def _formats(asked: str | None) -> list[str]:
    if asked is None:
        return list(FORMATS)
    if asked == "none":
        return []
    names = [name.strip() for name in asked.split(",") if name.strip()]
    known = [*FORMATS, *PUBLISHED_FORMATS]
    for name in names:
        if name not in known:
            raise UserError(f"--format {name}: use {', '.join(known)} or none")
    return list(dict.fromkeys(names))


def check_out(out: Path, *, overwrite: bool, key: str = "--out ") -> None:
    """Raise UserError where a folder is taken, or holds an export that is not to be replaced.

    Args:
        out: the folder.
        overwrite: whether an export may be replaced.
        key: what the message begins with.
    """
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / TASK).is_file()):
        raise UserError(f"{key}{out}: is there already, and is no export; name another folder")
    if any(out.iterdir()) and not overwrite:
        raise UserError(f"{key}{out}: holds an export; add --overwrite, or name another folder")
