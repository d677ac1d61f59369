"""The table a run ends with, for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from mmlight.runs.summary import PairScores, other_scores, retrieval_scores


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
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("retrieval", no_wrap=True)
        for heading in ("R@1", "R@5", "R@10", "median", "chance", "gain"):
            table.add_column(heading, justify="right", no_wrap=True)
        for pair in pairs:
            table.add_row(f"{pair.stage}: {pair.query} → {pair.gallery}", *retrieval_cells(pair))
        parts.append(table)
    others = other_scores(final)
    if others:
        table = Table(box=SIMPLE_HEAD, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        for name, value in others.items():
            table.add_row(name, format_value(name, value))
        parts.append(table)
    return Group(*parts)


def retrieval_cells(pair: PairScores) -> list[str]:
    """Return recall at 1, 5 and 10, median rank, chance, and the gain over chance, as text.

    Args:
        pair: the scores of one direction; what it lacks becomes a dash.
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
    return cells


def format_value(name: str, value: float) -> str:
    """Return a metric's value as people read it: shares in percent, others with four digits.

    Args:
        name: the metric's name.
        value: its value.
    """
    if any(word in name for word in ("recall", "accuracy", "precision", "share")):
        return f"{100 * value:.1f} %"
    return f"{value:.4g}"
