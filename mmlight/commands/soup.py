"""``mmlight soup``: averages the weights of several runs of one model (arXiv 2203.05482)."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from mmlight.commands.weights import (
    Scores,
    Scoring,
    Tensors,
    norms_source,
    parse,
    read_plain,
    sign_of,
    table,
)
from mmlight.errors import UserError
from mmlight.files import write_json
from mmlight.runs.show.grid import Grid
from mmlight.saved.checkpoint import Saved, different_tensors
from mmlight.scores import chosen_metric, format_value
from mmlight.tasks.task import Task


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
    scores: dict[str, float] = field(default_factory=dict)
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
                wide = tensor.double()
                self._sum[name] = self._sum[name] + wide if self.count else wide
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
    options, rest = parse(parser, argv)
    if options.kind == "uniform" and options.metric is not None:
        raise UserError("soup: --metric has no effect with --kind uniform, which takes all")
    read = [read_plain(source, key="soup") for source in options.sources]
    paths, saved = [path for path, _ in read], [model for _, model in read]
    check_ingredients(saved, options.sources)
    scoring = Scoring(rest, checkpoint=paths[0], kind="soup")
    with scoring.work():
        given = [Ingredient(*named) for named in zip(options.sources, map(str, paths), strict=True)]
        _cook(scoring, options=options, saved=saved, given=given)
    return 0


def _cook(
    on: Scoring, *, options: argparse.Namespace, saved: list[Saved], given: list[Ingredient]
) -> None:
    num_batches = options.recompute_batch_norm
    task = on.model(saved[0], verb="soup", num_batches=num_batches)
    average = Average()
    metric = None
    if options.kind == "greedy":
        if "val" not in on.stages:
            raise UserError("soup --kind greedy chooses by data.val, which is not set; use uniform")
        metric = _choose(on, task, average, options, saved, given)
    else:
        for one in saved:
            average.add(one.tensors)
    on.put(task, average.tensors(), num_batches=num_batches)
    scores = {stage: on.score(task, stage) for stage in on.stages}
    path = on.folder.path / "soup.ckpt"
    on.save(task, path)
    norms = norms_source(task, num_batches, by_default="averaged")
    if on.trainer.is_global_zero:
        report = {
            "kind": options.kind,
            "metric": metric,
            "batch_norm": norms,
            "ingredients": list(map(asdict, given)),
            "scores": scores,
        }
        write_json(path.with_suffix(".json"), report)
    on.tell(_table(given, metric, scores))
    if norms:
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
    for model, ingredient in zip(saved, given, strict=True):
        on.put(task, model.tensors, num_batches=0)
        ingredient.scores = on.score(task, "val")
        ingredient.kept = False
    metric = chosen_metric(given[0].scores, asked=options.metric)
    sign = sign_of(metric)
    best = None
    for number in sorted(range(len(given)), key=lambda n: -sign * given[n].scores[metric]):
        one, tensors = given[number], saved[number].tensors
        average.add(tensors)
        value = one.scores[metric]  # a model alone keeps its own statistics
        if best is not None:
            on.put(task, average.tensors(), num_batches=options.recompute_batch_norm)
            value = on.score(task, "val")[metric]
        one.kept = best is None or sign * value >= sign * best
        if one.kept:
            best = value
        else:
            average.remove(tensors)
        on.tell(
            f"{one.name}: {metric} {format_value(metric, one.scores[metric])}, "
            f"soup with it {format_value(metric, value)}{'' if one.kept else ': left out'}"
        )
    return metric


def _table(given: list[Ingredient], metric: str | None, scores: Scores) -> Grid:
    """Return what was put in, and how good the soup is."""
    shown = metric or chosen_metric(next(iter(scores.values())), asked=None)
    rows = []
    for one in given:
        alone = format_value(shown, one.scores[shown]) if one.scores else "-"
        cells = [alone if stage == "val" else "-" for stage in scores]
        rows.append([one.name, "yes" if one.kept else "no", *cells])
    last = [format_value(shown, of_stage[shown]) for of_stage in scores.values()]
    rows.append([f"soup of {sum(one.kept for one in given)}", "", *last])
    return table(shown, scores, rows, "model", "in the soup")
