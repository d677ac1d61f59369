"""``mmlight wise-ft``: weights between the pretrained and the fine-tuned (arXiv 2109.01903)."""

import argparse
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
from mmlight.data.decode.corruptions import KINDS, Corruption
from mmlight.data.module import ShardDataModule
from mmlight.errors import UserError
from mmlight.experiment.parser import resolve
from mmlight.files import write_json, write_text
from mmlight.runs.plots.wise_ft import plot_wise_ft
from mmlight.saved.checkpoint import Saved
from mmlight.saved.locate import locate
from mmlight.saved.rebuild import rebuild
from mmlight.scores import chosen_metric, format_value
from mmlight.tasks.task import build_task

# What the paper recommends where nothing is there to choose by (section 5).
_DEFAULT_ALPHA = 0.5


@dataclass(frozen=True)
class Point:
    """One place between the two models.

    Attributes:
        alpha: 0 is pretrained, 1 fine-tuned.
        scores: by stage (val, test, second).
    """

    alpha: float
    scores: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Shared:
    """What a pretrained and a fine-tuned model have in common.

    Attributes:
        names: floating tensors of equal name and shape; these are interpolated.
        kept: the fine-tuned model's other tensors (its head, counters), which stay.
        left: the pretrained model's other tensors, which are not used.
    """

    names: list[str]
    kept: list[str]
    left: list[str]


def shared_tensors(pretrained: Tensors, finetuned: Tensors) -> Shared:
    """Return which tensors can be interpolated.

    Raises:
        UserError: none, or one whose shape differs.
    """
    for name in finetuned.keys() & pretrained.keys():
        ours, theirs = tuple(finetuned[name].shape), tuple(pretrained[name].shape)
        if ours != theirs and not name.startswith("head."):
            raise UserError(f"wise-ft: {name} is {ours} fine-tuned, {theirs} pretrained")
    names = [
        name
        for name, tensor in finetuned.items()
        if tensor.is_floating_point()
        and name in pretrained
        and pretrained[name].shape == tensor.shape
    ]
    if not names:
        raise UserError("wise-ft: the two models have no tensor in common")
    taken = set(names)
    return Shared(
        names,
        [name for name in finetuned if name not in taken],
        [name for name in pretrained if name not in taken],
    )


def interpolate(
    pretrained: Tensors, finetuned: Tensors, *, shared: Shared, alpha: float
) -> Tensors:
    """Return ``(1 - alpha) pretrained + alpha finetuned`` of what is shared, and the rest.

    Args:
        pretrained: tensors at alpha 0.
        finetuned: tensors at alpha 1.
        shared: as `shared_tensors` returned it.
        alpha: from 0 to 1.
    """
    mixed = dict(finetuned)
    for name in shared.names:
        first, second = pretrained[name].double(), finetuned[name].double()
        # This form is exact at both ends.
        mixed[name] = ((1 - alpha) * first + alpha * second).to(finetuned[name].dtype)
    return mixed


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight wise-ft``.

    Raises:
        UserError: models without a common tensor, or anything `mmlight test` refuses.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight wise-ft",
        description="Score weights between a pretrained and a fine-tuned model, and keep the best "
        "by validation (without data.val: the middle). Tensors that both have are interpolated; a "
        "head that only the fine-tuned model has stays as it is. All other arguments are those of "
        "`mmlight test`.",
        allow_abbrev=False,
    )
    parser.add_argument("--pretrained", required=True, help="run folder, checkpoint or export")
    parser.add_argument("--finetuned", required=True, help="the same")
    parser.add_argument("--points", type=int, default=11, help="default %(default)s")
    parser.add_argument(
        "--metric", help="what to choose by, without its stage; default: accuracy, f1, wer, ap"
    )
    parser.add_argument(
        "--second", metavar="CONFIG", help="also score on this config's data.test, of another kind"
    )
    parser.add_argument(
        "--corruption",
        metavar="MODALITY:KIND:SEVERITY",
        help="also score on spoiled test data, such as image:noise:3",
    )
    parser.add_argument(
        "--recompute-batch-norm",
        type=int,
        default=0,
        metavar="N",
        help="take the statistics of batch norms from N batches of training at each point; by "
        "default they are interpolated like weights",
    )
    options, rest = parse(parser, argv)
    if options.points < 2:
        raise UserError(f"--points {options.points}: two or more make a curve")
    if options.second and options.corruption:
        raise UserError("--second and --corruption: give one of the two")
    corruption = _corruption(options.corruption) if options.corruption else None
    second: dict[str, Any] | None = None
    if options.second:
        second = resolve(["test", "-c", options.second])[0]["data"]
    pretrained = read_plain(locate(options.pretrained, key="--pretrained").path)
    checkpoint = locate(options.finetuned, key="--finetuned").path
    finetuned = read_plain(checkpoint)
    scoring = Scoring(rest, checkpoint=checkpoint, kind="wise-ft")
    with scoring.work():
        _walk(
            scoring,
            options=options,
            pretrained=pretrained,
            finetuned=finetuned,
            corruption=corruption,
            second=second,
        )
    return 0


def _walk(
    on: Scoring,
    *,
    options: argparse.Namespace,
    pretrained: Saved,
    finetuned: Saved,
    corruption: Corruption | None,
    second: dict[str, Any] | None,
) -> None:
    shared = shared_tensors(pretrained.tensors, finetuned.tensors)
    on.tell(
        f"{len(shared.names)} tensors are interpolated; only fine-tuned: "
        f"{_some(shared.kept)}; only pretrained: {_some(shared.left)}"
    )
    task = build_task(finetuned)
    on.check_data(task)
    num_batches = options.recompute_batch_norm
    check_batch_norm(task, num_batches, on.data)
    other: Any = None
    if corruption is not None:
        other = on.data.with_corruptions([corruption])
    elif second is not None:
        other = rebuild(second, base=ShardDataModule)
    if not on.stages():
        raise UserError("wise-ft needs data.val or data.test")
    last = options.points - 1
    points: list[Point] = []

    def put(alpha: float) -> None:
        mixed = interpolate(pretrained.tensors, finetuned.tensors, shared=shared, alpha=alpha)
        # At the ends the models keep their own statistics.
        on.put(task, mixed, num_batches=num_batches if 0 < alpha < 1 else 0)

    metric = ""
    for number in range(options.points):
        alpha = number / last
        put(alpha)
        scores = {stage: on.score(task, stage) for stage in on.stages()}
        if other is not None:
            scores["second"] = on.score(task, "test", data=other)
        points.append(Point(alpha, scores))
        metric = metric or chosen_metric(next(iter(scores.values())), asked=options.metric)
        told = ", ".join(f"{s} {format_value(metric, v[metric])}" for s, v in scores.items())
        on.tell(f"alpha {alpha:.2f}: {metric} {told}")
    best, why = _best(points, metric)
    put(best.alpha)
    path = on.folder.path / "wise_ft.ckpt"
    on.save(task, path)
    if on.trainer.is_global_zero:
        _write(on, options, points, metric, best, len(shared.names), corruption)
    on.tell(_table(points, metric, best))
    if has_batch_norm(task):
        norms = f"recomputed on {num_batches} batches" if num_batches else "interpolated"
        on.tell(f"statistics of batch norms: {norms}")
    on.tell(f"chosen: alpha {best.alpha:.2f} ({why})")
    on.tell(f"wise-ft: {path}")


def _best(points: list[Point], metric: str) -> tuple[Point, str]:
    if "val" not in points[0].scores:
        middle = min(points, key=lambda point: abs(point.alpha - _DEFAULT_ALPHA))
        return middle, "the middle: there is no data.val to choose by"
    sign = sign_of(metric)
    # Of equals the one nearer to the pretrained model, which bears more.
    best = max(points, key=lambda point: (sign * point.scores["val"][metric], -point.alpha))
    return best, f"by val/{metric}"


def _write(
    on: Scoring,
    options: argparse.Namespace,
    points: list[Point],
    metric: str,
    best: Point,
    num_shared: int,
    corruption: Corruption | None,
) -> None:
    write_json(
        on.folder.path / "wise_ft.json",
        {
            "pretrained": options.pretrained,
            "finetuned": options.finetuned,
            "metric": metric,
            "alpha": best.alpha,
            "num_shared_tensors": num_shared,
            "second": options.second or options.corruption,
            "points": [{"alpha": point.alpha, "scores": point.scores} for point in points],
        },
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [(s, name) for s, scores in points[0].scores.items() for name in scores]
    writer.writerow(["alpha", *(f"{stage}/{name}" for stage, name in columns)])
    for point in points:
        writer.writerow([point.alpha, *(point.scores[stage].get(name) for stage, name in columns)])
    write_text(on.folder.path / "wise_ft.csv", text.getvalue())
    plot_wise_ft(
        [point.alpha for point in points],
        {s: [point.scores[s][metric] for point in points] for s in points[0].scores},
        metric=metric,
        chosen=best.alpha,
        second=corruption.name if corruption is not None else "second data",
        path=on.folder.path / "wise_ft.png",
    )


def _table(points: list[Point], metric: str, best: Point) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("alpha")
    stages = list(points[0].scores)
    for stage in stages:
        table.add_column(f"{stage} {metric}", justify="right")
    for point in points:
        mark = " *" if point is best else ""
        cells = [format_value(metric, point.scores[stage][metric]) for stage in stages]
        table.add_row(f"{point.alpha:.2f}{mark}", *cells)
    return table


def _corruption(text: str) -> Corruption:
    parts = text.split(":")
    modality, kind, severity = (*parts, "", "", "")[:3]
    if len(parts) != 3 or modality not in KINDS or kind not in KINDS[modality]:
        known = ", ".join(f"{m}:{k}" for m in KINDS for k in KINDS[m])
        raise UserError(f"--corruption {text}: give one of {known}, with :1 to :5 behind it")
    if severity not in ("1", "2", "3", "4", "5"):
        raise UserError(f"--corruption {text}: the severity is 1 to 5")
    spoiled: Any = Corruption
    found: Corruption = spoiled(modality, kind, severity=int(severity))
    return found


def _some(names: list[str]) -> str:
    roots = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
    more = f" and {len(roots) - 3} more" if len(roots) > 3 else ""
    return f"{', '.join(roots[:3])}{more}" if roots else "none"
