"""``mmlight soup``: averages the weights of several runs of one model (arXiv 2203.05482)."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from mmlight.commands.weights import (
    Scoring,
    Tensors,
    check_batch_norm,
    has_batch_norm,
    parse,
    read_plain,
    sign_of,
)
from mmlight.errors import UserError
from mmlight.files import write_json
from mmlight.saved.checkpoint import Saved, different_tensors
from mmlight.saved.locate import locate
from mmlight.scores import chosen_metric, format_value
from mmlight.tasks.task import Task, build_task


@dataclass
class Ingredient:
    """One of the models.

    Attributes:
        name: what the user called it.
        path: the file.
        scores: on val, where it was scored.
        kept: whether it is in the soup.
    """

    name: str
    path: str
    scores: dict[str, float]
    kept: bool = True


def check_ingredients(saved: Sequence[Saved], names: Sequence[str]) -> None:
    """Refuse models that cannot be averaged.

    Args:
        saved: the models.
        names: what the user calls them.

    Raises:
        UserError: fewer than two, another task, other tensors or other classes.
    """
    if len(saved) < 2:
        raise UserError("soup: name two checkpoints or more")
    first = saved[0]
    for other, name in zip(saved[1:], names[1:], strict=True):
        kind, own = other.description["class_path"], first.description["class_path"]
        if kind != own:
            raise UserError(f"soup: {name} is a {kind}, {names[0]} a {own}")
        if problem := different_tensors(other.tensors, first.tensors):
            raise UserError(f"soup: {name} is another model than {names[0]}: {problem}")
        for key, value in (first.preprocessing or {}).items():
            theirs = (other.preprocessing or {}).get(key)
            if theirs != value:
                raise UserError(
                    f"soup: {name} was trained with other data.{key} than {names[0]}; their "
                    "inputs or classes do not mean the same"
                )


class Average:
    """The mean of tensors, in float64; integer tensors are the first model's."""

    def __init__(self) -> None:
        self._sum: Tensors = {}
        self._first: Tensors = {}
        self.count = 0

    def add(self, tensors: Tensors) -> None:
        """Take one more model into the mean."""
        if not self.count:
            self._first = dict(tensors)
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                before = self._sum.get(name)
                wide = tensor.double()
                self._sum[name] = wide if before is None else before + wide
        self.count += 1

    def remove(self, tensors: Tensors) -> None:
        """Take a model out again."""
        for name in self._sum:
            self._sum[name] = self._sum[name] - tensors[name].double()
        self.count -= 1

    def tensors(self) -> Tensors:
        """Return the mean, in the dtypes of the first model."""
        mean = dict(self._first)
        for name, total in self._sum.items():
            mean[name] = (total / self.count).to(mean[name].dtype)
        return mean


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight soup``.

    Raises:
        UserError: models that cannot be averaged, or anything `mmlight test` refuses.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight soup",
        description="Average the weights of several runs of one model that started from the same "
        "pretrained weights, and score the result. The soup is a checkpoint like any other. All "
        "other arguments are those of `mmlight test`.",
        allow_abbrev=False,
    )
    parser.add_argument("sources", nargs="+", metavar="CKPT", help="runs, checkpoints or exports")
    parser.add_argument(
        "--kind",
        choices=("greedy", "uniform"),
        default="greedy",
        help="greedy takes models in the order of their validation score, and keeps those that do "
        "not lower that of the soup; uniform averages all (default %(default)s)",
    )
    parser.add_argument(
        "--metric", help="what greedy chooses by, without its stage; default: accuracy, f1, wer, ap"
    )
    parser.add_argument(
        "--recompute-batch-norm",
        type=int,
        default=0,
        metavar="N",
        help="take the statistics of batch norms from N batches of training; by default those of "
        "the models are averaged like weights",
    )
    options, rest = parse(parser, argv)
    if options.kind == "uniform" and options.metric is not None:
        raise UserError("soup: --metric has no effect with --kind uniform, which takes all")
    paths = [locate(source, key="soup").path for source in options.sources]
    saved = [read_plain(path) for path in paths]
    check_ingredients(saved, options.sources)
    given = [
        Ingredient(source, str(path), {})
        for source, path in zip(options.sources, paths, strict=True)
    ]
    scoring = Scoring(rest, checkpoint=paths[0], kind="soup")
    with scoring.work():
        _cook(scoring, options=options, saved=saved, given=given)
    return 0


def _cook(
    on: Scoring, *, options: argparse.Namespace, saved: list[Saved], given: list[Ingredient]
) -> None:
    task = build_task(saved[0])
    on.check_data(task)
    num_batches = options.recompute_batch_norm
    check_batch_norm(task, num_batches, on.data)
    if not on.stages():
        raise UserError("soup needs data.val or data.test")
    average = Average()
    metric = None
    if options.kind == "greedy":
        if "val" not in on.stages():
            raise UserError("soup --kind greedy chooses by data.val, which is not set; use uniform")
        metric = _choose(on, task, average, options, saved, given)
    else:
        for one in saved:
            average.add(one.tensors)
    on.put(task, average.tensors(), num_batches=num_batches)
    scores = {stage: on.score(task, stage) for stage in on.stages()}
    path = on.folder.path / "soup.ckpt"
    on.save(task, path)
    norms = f"recomputed on {num_batches} batches" if num_batches else "averaged"
    if on.trainer.is_global_zero:
        write_json(
            on.folder.path / "soup.json",
            {
                "kind": options.kind,
                "metric": metric,
                "batch_norm": norms if has_batch_norm(task) else None,
                "ingredients": [asdict(one) for one in given],
                "scores": scores,
            },
        )
    on.tell(_table(given, metric, scores))
    if has_batch_norm(task):
        on.tell(f"statistics of batch norms: {norms}")
    on.tell(f"soup: {path}")


def _choose(
    on: Scoring,
    task: Task,
    average: Average,
    options: argparse.Namespace,
    saved: list[Saved],
    given: list[Ingredient],
) -> str:
    """Score each model, add the best, then whichever does not make the soup worse."""
    num_batches = options.recompute_batch_norm
    for one, ingredient in zip(saved, given, strict=True):
        on.put(task, one.tensors, num_batches=0)
        ingredient.scores = on.score(task, "val")
        ingredient.kept = False
    metric = chosen_metric(given[0].scores, asked=options.metric)
    sign = sign_of(metric)
    order = sorted(range(len(given)), key=lambda n: -sign * given[n].scores[metric])
    best = None
    for number in order:
        average.add(saved[number].tensors)
        if best is None:
            # A model alone keeps its own statistics.
            value = sign * given[number].scores[metric]
        else:
            on.put(task, average.tensors(), num_batches=num_batches)
            value = sign * on.score(task, "val")[metric]
        given[number].kept = best is None or value >= best
        if given[number].kept:
            best = value
        else:
            average.remove(saved[number].tensors)
        on.tell(
            f"{given[number].name}: {metric} {format_value(metric, given[number].scores[metric])}, "
            f"soup with it {format_value(metric, sign * value)}"
            f"{'' if given[number].kept else ': left out'}"
        )
    return metric


def _table(
    given: list[Ingredient], metric: str | None, scores: dict[str, dict[str, float]]
) -> Table:
    """Return what was put in, and how good the soup is."""
    stages = list(scores)
    shown = metric or chosen_metric(scores[stages[0]], asked=None)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("model")
    table.add_column("in the soup")
    for stage in stages:
        table.add_column(f"{stage} {shown}", justify="right")
    for one in given:
        cells = [
            format_value(shown, one.scores[shown]) if stage == "val" and one.scores else "-"
            for stage in stages
        ]
        table.add_row(one.name, "yes" if one.kept else "no", *cells)
    table.add_row(
        f"soup of {sum(one.kept for one in given)}",
        "",
        *(format_value(shown, scores[stage][shown]) for stage in stages),
    )
    return table
