"""The scores of weights between a pretrained and a fine-tuned model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmlight.runs.plots.canvas import COLORS, new_figure, save, style
from mmlight.scores import on_axis

_MARKERS = "os^"


def plot_wise_ft(
    alphas: Sequence[float],
    scores: Mapping[str, Sequence[float]],
    *,
    metric: str,
    chosen: float,
    second: str,
    path: Path,
) -> Path:
    """Draw a score over the place between the models, one curve for each data set.

    With two data sets their scores are also drawn against one another, as in the paper.

    Args:
        alphas: 0 is pretrained, 1 fine-tuned.
        scores: by data set (val, test, second), one for each alpha.
        metric: what they are.
        chosen: the alpha of the checkpoint that was written.
        second: what the second data set is called.
        path: the PNG to write.
    """
    unit, scale = on_axis(metric)
    pair = next((s for s in ("test", "val") if s in scores), None)
    against = "second" in scores and pair is not None
    figure = new_figure(width=11.0 if against else 6.4, height=4.2)
    grid = figure.subplots(1, 2 if against else 1, squeeze=False)[0]
    for number, (stage, values) in enumerate(scores.items()):
        grid[0].plot(
            alphas,
            [scale * value for value in values],
            color=COLORS[number],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            linewidth=1.6,
            label=second if stage == "second" else stage,
        )
    grid[0].axvline(chosen, color="#777777", linestyle=":", linewidth=1, label="chosen")
    grid[0].set_xlabel("pretrained (0) to fine-tuned (1)", fontsize=9)
    grid[0].set_ylabel(unit, fontsize=9)
    grid[0].legend(fontsize=8, frameon=False)
    if against:
        assert pair is not None
        across = [scale * value for value in scores[pair]]
        up = [scale * value for value in scores["second"]]
        grid[1].plot(across, up, color=COLORS[0], marker="o", markersize=4, linewidth=1.2)
        for place, label in ((0, "pretrained"), (len(across) - 1, "fine-tuned")):
            grid[1].annotate(
                label,
                (across[place], up[place]),
                xytext=(6, 5),
                textcoords="offset points",
                fontsize=8,
            )
        grid[1].margins(0.15)
        grid[1].set_xlabel(f"{pair} {unit}", fontsize=9)
        grid[1].set_ylabel(f"{second} {unit}", fontsize=9)
    for axes in grid:
        style(axes)
    return save(figure, path)
