"""``mmlight generate``: what a trained model says to prompts."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmlight.commands import draw
from mmlight.decoders.answer import Answer
from mmlight.decoders.sampling import Sampling
from mmlight.errors import UserError
from mmlight.experiment.messages import quieten
from mmlight.files import check_writable, write_text
from mmlight.tasks.load import load_task
from mmlight.tasks.task import Task
from mmlight.terminal import note, say_text
from mmlight.text_file import decode_text, parse_json

# Options that go into `Sampling` as they are.
_SAMPLING: dict[str, type] = {
    "max_new_tokens": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "beams": int,
    "length_penalty": float,
    "seed": int,
}
_HELP = {
    "max_new_tokens": "most tokens of an answer",
    "temperature": "scores are divided by it before one is drawn; 0 takes the likeliest",
    "top_k": "draw from so many likeliest tokens",
    "top_p": "draw from the fewest likeliest tokens with this probability together",
    "beams": "keep so many best answers while searching",
    "length_penalty": "with beams, how much length counts",
    "seed": "what is drawn depends on it and on the prompt's number alone",
}


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight generate``.

    Raises:
        UserError: no such model or file, a model that answers no prompts, or settings that do not
            go together.
    """
    if "--image" in argv:
        return draw.main([argument for argument in argv if argument != "--image"])
    options = _parse(argv)
    given = {name: getattr(options, name) for name in _SAMPLING}
    sampling = Sampling(
        **{name: value for name, value in given.items() if value is not None},
        stop=[_unescaped(text) for text in options.stop],
    )
    rows = _prompts(options)
    if options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size}: at least 1")
    if options.out is not None:
        check_writable(options.out, option="--out")
    quieten()
    task = load_task(options.model).to(_device(options.device))
    streams = options.out is None and len(rows) == 1 and (options.stream or sys.stdout.isatty())
    if options.stream and not streams:
        raise UserError("--stream shows one answer as it grows: give one --prompt, and no --out")
    if streams:
        (row,) = rows
        say_text(row["prompt"])
        task.generate([row["prompt"]], sampling, on_text=lambda _, text: _show(text))
        say_text("\n")
        return 0
    if options.out is None:
        for row, found in _answers(task, rows, sampling, size=options.batch_size):
            say_text(f"{row['prompt']}{found.text}\n")
            if len(rows) > 1:
                say_text("\n")
        return 0
    lines = [
        json.dumps(row | _beside(row, _columns(found)), ensure_ascii=False)
        for row, found in _answers(task, rows, sampling, size=options.batch_size)
    ]
    write_text(options.out, "".join(f"{line}\n" for line in lines))
    note(f"{len(lines)} answers in {options.out}")
    return 0


def _beside(row: Mapping[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return columns under names that a row does not have."""
    return {f"generated_{n}" if n in row else n: value for n, value in columns.items()}


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="mmlight generate",
        description="Say what comes behind prompts. One answer is shown while it grows; several "
        "are answered together, in batches that change nothing about them. With --image it draws: "
        "see mmlight generate --image --help.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", required=True, help="a run's folder, a checkpoint or an exported folder"
    )
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        help="may be given more than once; \\n is a newline",
    )
    parser.add_argument(
        "--in",
        dest="file",
        type=Path,
        metavar="FILE",
        help="prompts: lines of JSON with a `prompt` each; what else they hold is kept",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write answers as lines of JSON there"
    )
    default = Sampling()
    for name, kind in _SAMPLING.items():
        own = getattr(default, name)
        shown = "" if own is None else f" ({own})"
        parser.add_argument(f"--{name}", type=kind, help=f"{_HELP[name]}{shown}")
    parser.add_argument(
        "--stop", action="append", default=[], help="text before which an answer ends; repeatable"
    )
    parser.add_argument("--stream", action="store_true", help="show the answer while it grows")
    parser.add_argument(
        "--batch-size", type=int, default=16, help="prompts answered at once (%(default)s)"
    )
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: %(default)s"
    )
    parser.add_argument(
        "--import", metavar="MODULE", help="a module of your own whose classes a model may name"
    )
    return parser.parse_args(argv)


def _prompts(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return an object with a ``prompt`` for each answer."""
    if bool(options.prompt) == bool(options.file):
        raise UserError("give prompts by --prompt TEXT or by --in FILE, one of the two")
    if options.prompt:
        return [{"prompt": _unescaped(text)} for text in options.prompt]
    try:
        content = decode_text(options.file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"--in {options.file}: {error}") from error
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line.encode())
        except ValueError as error:
            raise UserError(f"--in {options.file}, line {number}: is no JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
            raise UserError(
                f"--in {options.file}, line {number}: is no object with a text `prompt`, such as "
                '{"prompt": "Once upon"}'
            )
        rows.append(row)
    if not rows:
        raise UserError(f"--in {options.file}: has no prompts")
    return rows


def _answers(
    task: Task, rows: Sequence[dict[str, Any]], sampling: Sampling, *, size: int
) -> Iterator[tuple[dict[str, Any], Answer]]:
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        numbers = range(start, start + len(part))
        yield from zip(
            part,
            task.generate([row["prompt"] for row in part], sampling, rows=numbers),
            strict=True,
        )


def _columns(found: Answer) -> dict[str, Any]:
    return {
        "answer": found.text,
        "num_tokens": found.num_tokens,
        "log_probability": found.log_probability,
        "is_ended": found.is_ended,
    }


def _show(text: str) -> None:
    say_text(text)
    sys.stdout.flush()


def _unescaped(text: str) -> str:
    """Return a text of the command line, in which a newline is hard to type."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no CUDA device here; leave it out")
    chosen = "cuda" if name == "auto" and torch.cuda.is_available() else name
    return torch.device("cpu" if chosen == "auto" else chosen)
