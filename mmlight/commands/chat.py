"""``mmlight chat``: ask a trained model, line by line, about an image, a sound, or nothing."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmlight.batch import Batch, Pieces
from mmlight.data.decode.probe import ENDINGS, kind
from mmlight.data.splits.plain_files import PredictSplit
from mmlight.decoders.sampling import Sampling
from mmlight.errors import UserError
from mmlight.experiment.messages import quieten
from mmlight.interop.predictor import Predictor
from mmlight.modality import Modality
from mmlight.tasks.multimodal_decoder import MultimodalDecoder
from mmlight.terminal import note, say_text

_SHOWN: tuple[Modality, ...] = ("image", "audio")


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight chat``.

    Raises:
        UserError: no such model or file, a model that answers nothing, or settings that do not go
            together.
    """
    options = _parse(argv)
    sampling = Sampling(
        max_new_tokens=options.max_new_tokens, temperature=options.temperature, seed=options.seed
    )
    if options.turns < 0:
        raise UserError(f"--turns {options.turns}: must be 0 or more")
    quieten()
    predictor = Predictor.load(options.model, device=_device(options.device))
    files = {name: getattr(options, name) for name in _SHOWN if getattr(options, name)}
    answer = _answering(predictor, files)
    if sys.stdin.isatty():
        note("ask line by line; Ctrl-D ends")
    turns: list[str] = []
    for number, line in enumerate(_lines()):
        before = turns[-options.turns :] if options.turns else []
        said: list[str] = []

        def show(_: int, text: str, said: list[str] = said) -> None:
            said.append(text)
            say_text(text)
            sys.stdout.flush()

        answer("\n".join([*before, line]), sampling, number, show)
        say_text("\n")
        turns.append(f"{line} {''.join(said).strip()}")
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="mmlight chat",
        description="Ask a trained model, line by line: a multimodal decoder about an image or a "
        "sound, a language model about anything. Answers are shown while they grow; the end of "
        "the input (Ctrl-D) ends it.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", required=True, help="a run's folder, a checkpoint or an exported folder"
    )
    parser.add_argument(
        "--image", type=Path, nargs="+", metavar="FILE", help="what is asked about; several are one"
    )
    parser.add_argument("--audio", type=Path, nargs=1, metavar="FILE", help="what is asked about")
    parser.add_argument(
        "--turns",
        type=int,
        default=0,
        help="say so many earlier questions and answers again in front of each, for models that "
        "were trained on conversations (%(default)s)",
    )
    default = Sampling()
    parser.add_argument(
        "--max_new_tokens",
        type=int,
        default=default.max_new_tokens,
        help="most tokens of an answer (%(default)s)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=default.temperature,
        help="scores are divided by it before one is drawn; 0 takes the likeliest (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=default.seed, help="default: %(default)s")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: %(default)s"
    )
    parser.add_argument(
        "--import", metavar="MODULE", help="a module of your own whose classes a model may name"
    )
    return parser.parse_args(argv)


def _answering(
    predictor: Predictor, files: dict[Modality, list[Path]]
) -> Callable[[str, Sampling, int, Callable[[int, str], None]], Any]:
    """Return what answers a line, its number given, telling a function each piece."""
    task = predictor.task
    if not isinstance(task, MultimodalDecoder):
        if files:
            raise UserError(
                f"--{next(iter(files))}: a {type(task).__name__} task is shown no images or "
                "sounds; mmlight.tasks.multimodal_decoder is"
            )
        return lambda line, sampling, number, show: task.generate(
            [line], sampling, rows=[number], on_text=show
        )
    about = _about(predictor, files)
    return lambda line, sampling, number, show: task.generate(
        [line], sampling, rows=[number], on_text=show, about=about
    )


def _about(predictor: Predictor, files: dict[Modality, list[Path]]) -> Batch:
    """Return a batch of one sample, that has these files."""
    takes = [name for name in predictor.task.tower_settings.given() if name != "text"]
    if not files:
        raise UserError(f"what is asked about? give --{' FILE or --'.join(takes)} FILE")
    found: Batch | None = None
    for name, paths in files.items():
        if name not in takes:
            raise UserError(f"--{name}: the model is shown {' and '.join(takes)} only")
        batches = [_read(predictor, name, path) for path in paths]
        part = _together([getattr(batch, name) for batch in batches], name)
        found = replace(batches[0] if found is None else found, **{name: part})
    assert found is not None
    return found.to(predictor.device)


def _lines() -> Iterator[str]:
    """Yield what is asked, until the input ends; blank lines are no questions."""
    while True:
        try:
            line = input("> ") if sys.stdin.isatty() else input()
        except EOFError:
            return
        if line.strip():
            yield line.strip()


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no CUDA device here; leave it out")
    chosen = "cuda" if name == "auto" and torch.cuda.is_available() else name
    return torch.device("cpu" if chosen == "auto" else chosen)


def _read(predictor: Predictor, name: Modality, path: Path) -> Batch:
    """Return a batch of one sample, that has this file."""
    if not path.is_file():
        raise UserError(f"--{name} {path}: is no file")
    if kind(path.suffix.lower().removeprefix(".")) != name:
        raise UserError(f"--{name} {path}: its name must end in {', '.join(ENDINGS[name])}")
    (batch,) = predictor.batches(PredictSplit(files=[str(path)]), batch_size=1)
    if batch.bad:
        raise UserError(f"--{name} {path}: {batch.bad[0].reason}")
    if getattr(batch, name) is None or not bool(batch.present(name).all()):
        raise UserError(f"--{name} {path}: is no {'sound' if name == 'audio' else name}")
    return batch


def _together(parts: list[Any], name: Modality) -> Any:
    """Return images as those of one sample."""
    if len(parts) == 1:
        return parts[0]
    sizes = {tuple(part.pixels_BCHW.shape[1:]) for part in parts}
    if len(sizes) > 1:
        raise UserError(f"--{name}: the model takes several images of one size only")
    pixels_BCHW = torch.cat([part.pixels_BCHW for part in parts])
    pieces = Pieces.of([len(parts)])
    assert pieces is not None
    return replace(parts[0], pixels_BCHW=pixels_BCHW, pieces=pieces.to(pixels_BCHW.device))
