"""The table a run ends with, for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from mmlight.runs.run.summary import PairScores, explain_scores, other_scores, retrieval_scores
from mmlight.scores import format_value


def format_table(summary: Mapping[str, Any]) -> Group:
    """Return the run's final scores for the terminal, readable at 80 columns.

    Recall, median rank, chance and the gain over it for each direction; then the other scores.

    Args:
        summary: the content of `summary.json`.
    """
    final = {name: float(value) for name, value in summary["final"].items()}
    parts: list[Table | str] = [f"{summary['name']} / {summary['id']}"]
    pairs = retrieval_scores(final)
    if pairs:
        # Narrow enough for 80 columns with three digits of gain.
        has_classes = any("precision_at_1" in pair.scores for pair in pairs)
        note = (
            "P@1: share of queries whose nearest is of their class, in %" if has_classes else None
        )
        table = Table(box=SIMPLE_HEAD, pad_edge=False, caption=note, caption_justify="left")
        table.add_column("retrieval", no_wrap=True)
        class_heading = ("P@1",) if has_classes else ()
        for heading in ("R@1 %", "R@5", "R@10", "median", "chance", "gain", *class_heading):
            table.add_column(heading, justify="right", no_wrap=True)
        for pair in pairs:
            cells = [c.removesuffix(" %") for c in retrieval_cells(pair, with_classes=has_classes)]
            table.add_row(f"{pair.stage}: {pair.query} → {pair.gallery}", *cells)
        parts.append(table)
    explained = explain_scores(final)
    if explained:
        note = "areas under the curves: deletion better low, insertion better high"
        table = Table(box=SIMPLE_HEAD, pad_edge=False, caption=note, caption_justify="left")
        table.add_column("explanations", no_wrap=True)
        for heading in ("deletion", "insertion"):
            table.add_column(heading, justify="right", no_wrap=True)
        for e in explained:
            name = f"{e.stage}: {e.modality}, {e.method.replace('_', ' ')}"
            table.add_row(name, f"{e.deletion_auc:.3f}", f"{e.insertion_auc:.3f}")
        parts.append(table)
    scored = other_scores(final)
    # Those of single classes, of which there may be a thousand, are in the report.
    others = {name: value for name, value in scored.items() if "/class/" not in name}
    if others:
        table = Table(box=SIMPLE_HEAD, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        for name, value in others.items():
            table.add_row(name, format_value(name, value))
        parts.append(table)
    of_classes = {name.rpartition("/")[0] for name in scored.keys() - others.keys()}
    if of_classes:
        word = "class" if len(of_classes) == 1 else "classes"
        parts.append(f"scores of {len(of_classes)} {word}: in the report")
    return Group(*parts)


def retrieval_cells(pair: PairScores, *, with_classes: bool = False) -> list[str]:
    """Return recall at 1, 5 and 10, median rank, chance, and the gain over chance, as text.

    Args:
        pair: the scores of one direction; what it lacks becomes a dash.
        with_classes: append the share of queries whose nearest row is of their class.
    """
    scores = pair.scores
    cells = [
        format_value(name, scores[name]) if name in scores else "-"
        for name in ("recall_at_1", "recall_at_5", "recall_at_10", "median_rank")
    ]
    chance = scores.get("chance_recall_at_1")
    recall = scores.get("recall_at_1")
    cells.append(f"{100 * chance:.2f} %" if chance is not None else "-")
    cells.append(f"{recall / chance:.0f} x" if chance and recall is not None else "-")
    if with_classes:
        precision = scores.get("precision_at_1")
        cells.append(format_value("precision_at_1", precision) if precision is not None else "-")
    return cells
