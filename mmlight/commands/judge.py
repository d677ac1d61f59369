"""``mmlight judge``: what a model draws, or rebuilds, scored by a model that was trained apart."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmlight.errors import UserError
from mmlight.experiment.build import assemble
from mmlight.files import write_text
from mmlight.interop.judged import Judgement, judge_images, several_times
from mmlight.runs.plots.picture_grid import plot_samples
from mmlight.runs.show.grid import Column, Grid
from mmlight.scores import format_value
from mmlight.tasks.load import load_task
from mmlight.terminal import say


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight judge``.

    Raises:
        UserError: no such model or split, one that draws nothing, or a judge that does not fit.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight judge",
        description="Draw an image of each sample's caption (or rebuild its image, with a "
        "tokenizer), and score the samples with it by another model: a classifier says how often "
        "it sees what the caption says, and its features give a Frechet distance. The judge should "
        "be trained with images that were softened (data.image.soften and noise): an ordinary one "
        "fails on what a tokenizer makes of images.",
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", required=True, help="an experiment: its data")
    parser.add_argument("--model", required=True, help="what draws: a run, checkpoint or export")
    parser.add_argument("--judge", required=True, help="what scores: a run, checkpoint or export")
    parser.add_argument("--split", default="val", help="of the data (default %(default)s)")
    parser.add_argument("--count", type=int, help="samples; more than the split has repeat it")
    parser.add_argument("--guidance", type=float, help="instead of the model's own")
    parser.add_argument("--temperature", type=float, help="instead of the model's own")
    parser.add_argument("--top-k", type=int, help="instead of the model's own")
    parser.add_argument("--seed", type=int, help="instead of the model's own")
    parser.add_argument("--out", type=Path, help="folder for scores.json and samples.png")
    parser.add_argument("--device", default="cpu", help="such as cuda (default %(default)s)")
    options, rest = parser.parse_known_args(list(argv))
    if options.count is not None and options.count < 1:
        raise UserError(f"--count {options.count}: at least 1")
    data = assemble("validate", ["-c", options.config, *rest]).data
    if options.split not in data.split_names():
        raise UserError(
            f"--split {options.split}: the data has {', '.join(sorted(data.split_names()))}"
        )
    drawer, judge = (load_task(path).to(options.device) for path in (options.model, options.judge))
    _set_sampling(drawer, options)
    data.follow({name: drawer.tower(name).preparation for name in drawer.tower_settings.given()})
    loader = data.eval_loader(options.split)
    count = options.count or len(data.samples(options.split))
    batches = (batch.to(options.device) for batch in several_times(loader, count=count))
    drawing: Any = drawer
    found = judge_images(drawing, judge, batches)
    _grid(found).print("table", title=f"{options.split}, {found.num_samples} samples")
    if options.out is not None:
        _write(found, options.out)
        say(f"scores: {options.out / 'scores.json'}")
    return 0


def _set_sampling(drawer: Any, options: argparse.Namespace) -> None:
    given = {
        name: getattr(options, name)
        for name in ("guidance", "temperature", "top_k", "seed")
        if getattr(options, name) is not None
    }
    if not hasattr(drawer, "redrawn"):
        raise UserError(f"--model {options.model}: a {type(drawer).__name__} task draws no images")
    if given and not hasattr(drawer, "sampling"):
        raise UserError(f"--{next(iter(given)).replace('_', '-')}: has no effect on a tokenizer")
    if given:
        drawer.sampling = replace(drawer.sampling, **given)


def _grid(found: Judgement) -> Grid:
    columns = (Column("score"), Column("drawn", align="right"), Column("real", align="right"))
    rows = [
        (name, *(format_value(name, scores[name]) for scores in (found.drawn, found.real)))
        for name in found.drawn
    ]
    if found.frechet_distance is not None:
        rows.append(("frechet_distance", f"{found.frechet_distance:.4g}", "0"))
    return Grid(columns, tuple(rows))


def _write(found: Judgement, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scores = {
        "drawn": found.drawn,
        "real": found.real,
        "frechet_distance": found.frechet_distance,
        "num_samples": found.num_samples,
    }
    write_text(folder / "scores.json", json.dumps(scores, indent=2) + "\n")
    if found.shown:
        pixels = [one.numpy() for one in found.shown]
        plot_samples(pixels, folder / "samples.png", titles=found.captions)
