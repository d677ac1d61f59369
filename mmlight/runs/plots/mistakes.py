"""A classifier's worst mistakes, with the samples themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlight.runs.plots.canvas import BAD, bare, border, new_figure, save, wrap
from mmlight.runs.plots.examples import Example, show_example


def plot_mistakes(
    examples: Sequence[Example],
    said: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    title: str,
    sample_rate_hz: int | None = None,
) -> Path:
    """Draw mistakes in a grid, worst first.

    Args:
        examples: the samples of one or more mistakes.
        said: of each the ``label``, the ``prediction``, and the ``confidence`` of the model.
        path: the PNG to write.
        title: of the picture.
        sample_rate_hz: of sounds.
    """
    only_text = all(e.pixels_CHW is None and e.waveform_T is None for e in examples)
    columns = min(3 if only_text else 6, len(examples))
    lines = -(-len(examples) // columns)
    figure = new_figure(
        width=(4.2 if only_text else 1.95) * columns,
        height=(1.5 if only_text else 2.35) * lines + 0.4,
    )
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(lines, columns, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= len(examples):
            axes.axis("off")
            continue
        one, mistake = examples[number], said[number]
        if only_text:
            text = wrap(one.caption, width=52, lines=5)
            axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=8)
            bare(axes)
        else:
            show_example(axes, one, sample_rate_hz)
        border(axes, BAD, width=1.5)
        width = 50 if only_text else 22
        label = wrap(f"is {mistake['label']}", width=width, lines=1)
        prediction = wrap(f"said {mistake['prediction']}", width=width - 5, lines=1)
        axes.set_title(f"{label}\n{prediction} {mistake['confidence']:.2f}", fontsize=8)
    return save(figure, path)
