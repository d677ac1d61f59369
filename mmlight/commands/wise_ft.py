"""``mmlight wise-ft``: weights between the pretrained and the fine-tuned (arXiv 2109.01903)."""

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

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
from mmlight.data.decode.corruptions import KINDS, Corruption
from mmlight.data.module import ShardDataModule
from mmlight.errors import UserError
from mmlight.experiment.parser import resolve
from mmlight.files import csv_text, write_json, write_text
from mmlight.runs.plots.wise_ft import plot_wise_ft
from mmlight.saved.checkpoint import Saved
from mmlight.saved.rebuild import rebuild
from mmlight.scores import chosen_metric, format_value

# What the paper recommends where nothing is there to choose by (section 5).
_DEFAULT_ALPHA = 0.5


def shared_tensors(pretrained: Tensors, finetuned: Tensors) -> list[str]:
    """Return the names of the tensors that can be interpolated: floating, of equal shape.

    The fine-tuned model's other tensors (its head, counters) stay; the pretrained one's are unused.

    Raises:
        UserError: none, or one whose shape differs.
    """
    names = []
    for name, tensor in finetuned.items():
        other = pretrained.get(name)
        if other is None:
            continue
        ours, theirs = tuple(tensor.shape), tuple(other.shape)
        if ours != theirs and not name.startswith("head."):
            raise UserError(f"wise-ft: {name} is {ours} fine-tuned, {theirs} pretrained")
        if ours == theirs and tensor.is_floating_point():
            names.append(name)
    if not names:
        raise UserError("wise-ft: the two models have no tensor in common")
    return names


def interpolate(
    pretrained: Tensors, finetuned: Tensors, *, names: Iterable[str], alpha: float
) -> Tensors:
    """Return ``(1 - alpha) pretrained + alpha finetuned`` of what is shared, and the rest.

    Args:
        pretrained: tensors at alpha 0.
        finetuned: tensors at alpha 1.
        names: as `shared_tensors` returned them.
        alpha: from 0 to 1.
    """
    mixed = dict(finetuned)
    for name in names:
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
    parser.add_argument(
        "--pretrained", required=True, help="a run, checkpoint, export or published model"
    )
    parser.add_argument("--finetuned", required=True, help="the same")
    parser.add_argument("--points", type=int, default=11, help="default %(default)s")
    parser.add_argument(
        "--second", metavar="CONFIG", help="also score on this config's data.test, of another kind"
    )
    parser.add_argument(
        "--corruption",
        metavar="MODALITY:KIND:SEVERITY",
        help="also score on spoiled test data, such as image:noise:3",
    )
    options, rest = parse(parser, argv)
    if options.points < 2:
        raise UserError(f"--points {options.points}: two or more make a curve")
    if options.second and options.corruption:
        raise UserError("--second and --corruption: give one of the two")
    corruption = _corruption(options.corruption) if options.corruption else None
    second = resolve(["test", "-c", options.second])[0]["data"] if options.second else None
    _, pretrained = read_plain(options.pretrained, key="--pretrained")
    checkpoint, finetuned = read_plain(options.finetuned, key="--finetuned")
    scoring = Scoring(rest, checkpoint=checkpoint, kind="wise-ft")
    with scoring.work():
        other: Any = None
        if corruption is not None:
            other = scoring.data.with_corruptions([corruption])
        elif second is not None:
            other = rebuild(second, base=ShardDataModule)
        called = corruption.name if corruption is not None else "second data"
        _walk(scoring, options, pretrained.tensors, finetuned, other, called)
    return 0


def _walk(
    on: Scoring,
    options: argparse.Namespace,
    pretrained: Tensors,
    finetuned: Saved,
    other: Any,
    called: str,
) -> None:
    names = shared_tensors(pretrained, finetuned.tensors)
    on.tell(
        f"{len(names)} tensors are interpolated; only fine-tuned: "
        f"{_others(finetuned.tensors, pretrained)}; only pretrained: "
        f"{_others(pretrained, finetuned.tensors)}"
    )
    num_batches = options.recompute_batch_norm
    task = on.model(finetuned, verb="wise-ft", num_batches=num_batches)

    def put(alpha: float) -> None:
        mixed = interpolate(pretrained, finetuned.tensors, names=names, alpha=alpha)
        # At the ends the models keep their own statistics.
        on.put(task, mixed, num_batches=num_batches if 0 < alpha < 1 else 0)

    points: dict[float, Scores] = {}
    metric = ""
    for number in range(options.points):
        alpha = number / (options.points - 1)
        put(alpha)
        scores = points[alpha] = {stage: on.score(task, stage) for stage in on.stages}
        if other is not None:
            scores["second"] = on.score(task, "test", data=other)
        metric = metric or chosen_metric(next(iter(scores.values())), asked=options.metric)
        line = ", ".join(f"{s} {format_value(metric, v[metric])}" for s, v in scores.items())
        on.tell(f"alpha {alpha:.2f}: {metric} {line}")
    if "val" in on.stages:
        sign = sign_of(metric)
        # Of equals the one nearer to the pretrained model, which bears more.
        best = max(points, key=lambda alpha: (sign * points[alpha]["val"][metric], -alpha))
        why = f"by val/{metric}"
    else:
        best = min(points, key=lambda alpha: abs(alpha - _DEFAULT_ALPHA))
        why = "the middle: there is no data.val to choose by"
    put(best)
    path = on.folder.path / "wise_ft.ckpt"
    on.save(task, path)
    if on.trainer.is_global_zero:
        result = {
            "pretrained": options.pretrained,
            "finetuned": options.finetuned,
            "metric": metric,
            "alpha": best,
            "num_shared_tensors": len(names),
            "second": options.second or options.corruption,
            "points": [{"alpha": alpha, "scores": scores} for alpha, scores in points.items()],
        }
        write_json(path.with_suffix(".json"), result)
        named = [
            {f"{stage}/{name}": value for stage, of in scores.items() for name, value in of.items()}
            for scores in points.values()
        ]
        flat = [{"alpha": alpha, **row} for alpha, row in zip(points, named, strict=True)]
        write_text(path.with_suffix(".csv"), csv_text(flat))
        plot_wise_ft(
            list(points),
            {stage: [scores[stage][metric] for scores in points.values()] for stage in scores},
            metric=metric,
            chosen=best,
            second=called,
            path=path.with_suffix(".png"),
        )
    rows = [
        [f"{alpha:.2f}{' *' * (alpha == best)}"]
        + [format_value(metric, of_stage[metric]) for of_stage in scores.values()]
        for alpha, scores in points.items()
    ]
    on.tell(table(metric, scores, rows, "alpha"))
    if norms := norms_source(task, num_batches, by_default="interpolated"):
        on.tell(f"statistics of batch norms: {norms}")
    on.tell(f"chosen: alpha {best:.2f} ({why})")
    on.tell(f"wise-ft: {path}")


def _corruption(text: str) -> Corruption:
    known = [f"{modality}:{kind}" for modality in KINDS for kind in KINDS[modality]]
    name, _, severity = text.rpartition(":")
    if name not in known:
        names = ", ".join(known)
        raise UserError(f"--corruption {text}: give one of {names}, with :1 to :5 behind it")
    if severity not in ("1", "2", "3", "4", "5"):
        raise UserError(f"--corruption {text}: the severity is 1 to 5")
    spoiled: Any = Corruption
    made: Corruption = spoiled(*name.split(":"), severity=int(severity))
    return made


def _others(tensors: Tensors, other: Tensors) -> str:
    """Return which parts of a model another has not, for people."""
    left = [
        name for name, t in tensors.items() if name not in other or other[name].shape != t.shape
    ]
    roots = list(dict.fromkeys(name.rpartition(".")[0] or name for name in left))
    more = f" and {len(roots) - 3} more" if len(roots) > 3 else ""
    return f"{', '.join(roots[:3])}{more}" if roots else "none"
