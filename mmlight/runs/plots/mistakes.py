"""A classifier's worst mistakes, with the samples themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmlight.runs.plots.canvas import BAD, border, new_figure, save, wrap
from mmlight.runs.plots.examples import Example, show_example


@dataclass(frozen=True)
class WrongExample:
    """A sample with what was said of it.

    Attributes:
        example: what it looks or sounds like, and its text.
        label: what it is.
        prediction: what the model took it for.
        confidence: how sure the model was.
    """

    example: Example
    label: str
    prediction: str
    confidence: float


def plot_mistakes(
    wrong: Sequence[WrongExample], path: Path, *, title: str, sample_rate_hz: int | None = None
) -> Path:
    """Draw mistakes in a grid, worst first.

    Args:
        wrong: one or more mistakes.
        path: the PNG to write.
        title: of the picture.
        sample_rate_hz: of sounds.
    """
    only_text = all(w.example.pixels_CHW is None and w.example.waveform_T is None for w in wrong)
    columns = min(3 if only_text else 6, len(wrong))
    lines = -(-len(wrong) // columns)
    figure = new_figure(
        width=(4.2 if only_text else 1.95) * columns,
        height=(1.5 if only_text else 2.35) * lines + 0.4,
    )
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(lines, columns, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= len(wrong):
            axes.axis("off")
            continue
        one = wrong[number]
        if only_text:
            text = wrap(one.example.caption, width=52, lines=5)
            axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=8)
            axes.set_xticks([])
            axes.set_yticks([])
        else:
            show_example(axes, one.example, sample_rate_hz)
        border(axes, BAD, width=1.5)
        width = 50 if only_text else 22
        axes.set_title(
            f"{wrap('is ' + one.label, width=width, lines=1)}\n"
            f"{wrap('said ' + one.prediction, width=width - 5, lines=1)} {one.confidence:.2f}",
            fontsize=8,
        )
    return save(figure, path)
