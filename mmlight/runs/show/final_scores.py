"""The scores that a run ends with, as tables for the terminal and for its report."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group

from mmlight.runs.show.grid import Column, Grid
from mmlight.scores import format_value

_NO_STAGES = ("train", "robustness")


def format_table(summary: Mapping[str, Any]) -> Group:
    """Return the run's final scores for the terminal, readable at 80 columns.

    Recall, median rank, chance and the gain over it for each direction; then the other scores.
    """
    final = {name: float(value) for name, value in summary["final"].items()}
    parts: list[Grid | str] = [f"{summary['name']} / {summary['id']}"]
    if (retrieval := retrieval_grid(final)) is not None:
        parts.append(retrieval)
        if any(column.name == "P@1" for column in retrieval.columns):
            parts.append("P@1: share of queries whose nearest is of their class, in %")
    if (explained := explanations_grid(final)) is not None:
        parts.append(explained)
        parts.append("areas under the curves: deletion better low, insertion better high")
    # Those of single classes, of which there may be a thousand, are in the report.
    of_all = {name: value for name, value in final.items() if "/class/" not in name}
    if (others := others_grid(of_all)) is not None:
        parts.append(others)
    of_classes = {name.rpartition("/")[0] for name in _others(final) if "/class/" in name}
    if of_classes:
        word = "class" if len(of_classes) == 1 else "classes"
        parts.append(f"scores of {len(of_classes)} {word}: in the report")
    return Group(*parts)


def retrieval_grid(final: Mapping[str, float]) -> Grid | None:
    """Return recall at 1, 5 and 10 in percent, median rank, chance, and the gain over chance.

    Args:
        final: values by name; where one direction lacks something, there is a dash.

    Returns:
        A row for each direction, and each set of several; None without retrieval.
    """
    pairs: dict[tuple[str, str], dict[str, float]] = {}
    for name, value in final.items():
        # Of one set of several, the stage has its name behind it: val/web.
        stage, pair, score = ["", "", *name.rsplit("/", 2)][-3:]
        if "_to_" in pair and stage and stage.partition("/")[0] not in _NO_STAGES:
            pairs.setdefault((stage, pair), {})[score] = value
    if not pairs:
        return None
    # Narrow enough for 80 columns with three digits of gain.
    headings = [("R@1", "%"), ("R@5", ""), ("R@10", ""), ("median", ""), ("chance", "")]
    headings += [("gain", ""), ("P@1", "")]
    has_classes = any("precision_at_1" in scores for scores in pairs.values())
    count = len(headings) + 1 if has_classes else len(headings)
    numbers = (Column(name, unit=unit, align="right") for name, unit in headings)
    rows = tuple(_retrieval_row(*pair, scores)[:count] for pair, scores in pairs.items())
    return Grid((Column("retrieval"), *numbers)[:count], rows)


def _retrieval_row(stage: str, pair: str, scores: Mapping[str, float]) -> tuple[str, ...]:
    def shown(name: str) -> str:
        return format_value(name, scores[name]).removesuffix(" %") if name in scores else "-"

    recall, chance = scores.get("recall_at_1"), scores.get("chance_recall_at_1")
    return (
        f"{stage}: {pair.replace('_to_', ' → ', 1)}",
        *(shown(name) for name in ("recall_at_1", "recall_at_5", "recall_at_10", "median_rank")),
        "-" if chance is None else f"{100 * chance:.2f}",
        f"{recall / chance:.0f} x" if chance and recall is not None else "-",
        shown("precision_at_1"),
    )


def explanations_grid(final: Mapping[str, float]) -> Grid | None:
    """Return how true each method's explanations are to the model; None without any."""
    rows = []
    for name, deletion in final.items():
        stem, _, curve = name.rpartition("_deletion_")
        stage, _, rest = stem.partition("/explain/")
        if rest and curve == "auc":
            modality, method = rest.split("_", 1)
            about = f"{stage}: {modality}, {method.replace('_', ' ')}"
            insertion, gap = final[f"{stem}_insertion_auc"], final.get(f"{stem}_gap")
            missed = None if gap is None else f"{100 * gap:.2f} %"
            rows.append((about, f"{deletion:.3f}", f"{insertion:.3f}", missed))
    names = ("deletion", "insertion", "gap of the sum")
    columns = (Column("explanations"), *(Column(name, align="right") for name in names))
    return Grid(columns, tuple(rows)) if rows else None


def others_grid(final: Mapping[str, float]) -> Grid | None:
    """Return the scores that have no table of their own; None without any."""
    rows = tuple((name, format_value(name, final[name])) for name in _others(final))
    return Grid((Column(""), Column("", align="right")), rows) if rows else None


def _others(final: Mapping[str, float]) -> list[str]:
    """Return the evaluation metrics that have no table of their own: losses, accuracies."""
    evaluated = [n for n in final if "/" in n and n.partition("/")[0] not in _NO_STAGES]
    return [n for n in evaluated if "_to_" not in n and "/explain/" not in n]
