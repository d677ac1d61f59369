"""``mmlight generate --image``: draws prompts, completes images, and says what images show."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmlight.batch import Images
from mmlight.data.decode.image import ImageSettings, load_image
from mmlight.errors import UserError
from mmlight.files import check_writable
from mmlight.interop.embedder import Embedder
from mmlight.interop.inputs import decoded, image_bytes
from mmlight.interop.judged import rank_images
from mmlight.runs.plots.picture_grid import plot_samples
from mmlight.saved.rebuild import rebuild_settings
from mmlight.tasks.load import load_task
from mmlight.tasks.text_to_image import TextToImage
from mmlight.terminal import say

_SAMPLING = ("guidance", "temperature", "top_k", "top_p", "seed")


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight generate --image``.

    Raises:
        UserError: no such model or file, a model that draws nothing, or settings that do not go
            together.
    """
    options = _parse(argv)
    task = load_task(options.model).to(options.device)
    if not isinstance(task, TextToImage):
        raise UserError(f"--model {options.model}: a {type(task).__name__} task draws no images")
    if options.describe:
        for path, said in zip(
            options.describe, task.describe(_images(task, options.describe)), strict=True
        ):
            say(f"{path}: {said}")
        return 0
    given = {n: getattr(options, n) for n in _SAMPLING if getattr(options, n) is not None}
    prompts = [text for text in options.prompt for _ in range(options.count)]
    begun_BL = None
    if options.begin is not None:
        height, width = task.codes.grid
        codes_1L = task.codes.codes(_images(task, [options.begin]))
        begun_BL = codes_1L[:, : height // 2 * width].expand(len(prompts), -1)
    drawn = task.draw_images(
        prompts, sampling=replace(task.sampling, **given), begun_BL=begun_BL
    ).pixels_BCHW
    chosen = list(range(len(prompts)))
    if options.rank_by is not None:
        fits_B = rank_images(Embedder.load(options.rank_by), prompts, drawn)
        chosen = _best_first(fits_B, count=options.count, keep=options.keep)
    titles = [prompts[row] for row in chosen]
    columns = max(1, round(len(chosen) ** 0.5))
    plot_samples(
        [drawn[row].cpu().numpy() for row in chosen], options.out, titles=titles, columns=columns
    )
    say(f"{len(chosen)} images: {options.out}")
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="mmlight generate --image",
        description="Draw images of prompts into one picture, by a model of text to image; or say "
        "what images show, by the same model (model.image_first).",
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, help="a run's folder, a checkpoint or an export")
    parser.add_argument("--prompt", action="append", default=[], help="may be given more than once")
    parser.add_argument("--count", type=int, default=16, help="images of each (%(default)s)")
    parser.add_argument("--out", type=Path, help="the picture, such as grid.png")
    for name, kind in zip(_SAMPLING, (float, float, int, float, int), strict=True):
        parser.add_argument(f"--{name}", type=kind, help="instead of the model's own")
    parser.add_argument("--begin", type=Path, metavar="FILE", help="keep this image's upper half")
    parser.add_argument(
        "--rank_by",
        metavar="RUN",
        help="a contrastive model: what fits its prompt best comes first",
    )
    parser.add_argument("--keep", type=int, help="with --rank_by: so many of each prompt")
    parser.add_argument(
        "--describe",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="say what this image shows; may be given more than once",
    )
    parser.add_argument("--device", default="cpu", help="such as cuda (%(default)s)")
    options = parser.parse_args(argv)
    if bool(options.prompt) == bool(options.describe):
        raise UserError("give prompts by --prompt TEXT, or images by --describe FILE, one of both")
    if options.prompt and options.out is None:
        raise UserError("--out is missing: name the picture, such as --out grid.png")
    if options.out is not None and options.prompt:
        check_writable(options.out, option="--out")
        if options.out.suffix.lower() != ".png":
            raise UserError(f"--out {options.out}: pictures are written as PNG; name it .png")
    if options.count < 1:
        raise UserError(f"--count {options.count}: at least 1")
    if options.keep is not None and options.rank_by is None:
        raise UserError("--keep has an effect only with --rank_by")
    if options.keep is not None and not 1 <= options.keep <= options.count:
        raise UserError(f"--keep {options.keep}: from 1 to --count ({options.count})")
    return options


def _best_first(fits_B: Tensor, *, count: int, keep: int | None) -> list[int]:
    """Return the rows of each prompt, those that fit best first."""
    order_PN = fits_B.unflatten(0, (-1, count)).argsort(dim=1, descending=True, stable=True)
    starts_P1 = torch.arange(len(order_PN), device=order_PN.device)[:, None] * count
    return (starts_P1 + order_PN)[:, :keep].flatten().tolist()


def _images(task: TextToImage, paths: Sequence[Path]) -> Images:
    """Return images as the model's tokenizer takes them."""
    kept: Any = (task.preprocessing or {}).get("image")
    settings = rebuild_settings(kept, ImageSettings, key="data.image")
    pixels = [
        decoded(
            lambda data: load_image(data, settings, draws=None),
            image_bytes(path, name=str(path)),
            name=str(path),
        )
        for path in paths
    ]
    here_B = torch.ones(len(pixels), dtype=torch.bool, device=task.device)
    return Images(torch.stack(pixels).to(task.device), here_B)
