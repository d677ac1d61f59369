"""Pictures of explanations: overlays, coloured tokens, attention heads, faithfulness."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmlight.insight.explain import Attribution
from mmlight.insight.samples import Explained, mean_by_method, metrics_of
from mmlight.modality import Modality
from mmlight.runs.plots.canvas import spread
from mmlight.runs.plots.colored_text import ColoredText, plot_colored_texts
from mmlight.runs.plots.faithfulness import plot_faithfulness
from mmlight.runs.plots.overlays import Overlay, plot_heads, plot_overlays, plot_token_heads
from mmlight.runs.show.sounds import keep_sounds


def draw_explanations(
    explained: Sequence[Explained],
    folder: Path,
    *,
    stage: str,
    modality: Modality,
    num_drawn: int,
    sample_rate_hz: int | None = None,
) -> list[Path]:
    """Draw samples of one modality, and the curves of all of them; return the files.

    Args:
        explained: the samples, explained by the same methods.
        folder: where the pictures go; their names begin with the stage.
        stage: `val` or `test`.
        modality: what was explained.
        num_drawn: number of samples that are drawn; their sounds are kept beside the picture.
        sample_rate_hz: of sounds.
    """
    some = [explained[i] for i in spread(len(explained), num_drawn)]
    name = f"{stage}_explain_{modality}"
    main = _draw_texts if modality == "text" else _draw_overlays
    drawn = [
        main(some, folder / f"{name}.png"),
        plot_faithfulness(
            mean_by_method(explained),
            folder / f"{name}_faithfulness.png",
            metrics=metrics_of(explained),
            modality=modality,
            num_samples=len(explained),
        ),
    ]
    sounds = [(f"{s.about} {s.truth}", s.waveform_T) for s in some if s.waveform_T is not None]
    if sounds and sample_rate_hz is not None:
        keep_sounds(drawn[0], sounds, sample_rate_hz=sample_rate_hz)
    if some[0].explanation.heads is not None:
        drawn.append(_draw_heads(some[0], folder / f"{name}_heads.png"))
    return drawn


def _draw_overlays(some: Sequence[Explained], path: Path) -> Path:
    overlays: list[Overlay] = []
    for sample in some:
        assert sample.picture is not None
        maps: dict[str, np.ndarray] = {
            a.method: _cut(a.map_RK, sample) for a in sample.explanation.attributions
        }
        notes: dict[str, str] = {a.method: _note(a) for a in sample.explanation.attributions}
        overlays.append(Overlay(sample.about, sample.truth, sample.picture, maps, notes))
    seconds = [sample.seconds for sample in some if sample.seconds is not None]
    return plot_overlays(overlays, path, seconds=seconds or None)


def _draw_texts(some: Sequence[Explained], path: Path) -> Path:
    texts = [
        ColoredText(
            f"{sample.about}  {sample.truth}",
            list(sample.pieces),
            {a.method: a.map_RK[0] for a in sample.explanation.attributions},
            {a.method: _note(a) for a in sample.explanation.attributions},
        )
        for sample in some
    ]
    return plot_colored_texts(texts, path)


def _draw_heads(sample: Explained, path: Path) -> Path:
    heads = sample.explanation.heads
    assert heads is not None
    if sample.pieces:
        by_layer = heads.mean(1)[:, 0]
        return plot_token_heads(by_layer, path, pieces=list(sample.pieces), about=sample.about)
    assert sample.picture is not None
    return plot_heads(
        _cut(heads, sample),
        path,
        picture=sample.picture,
        is_sound=sample.seconds is not None,
        about=sample.about,
    )


def _cut(maps: np.ndarray, sample: Explained) -> np.ndarray:
    """Leave out the padding of a sound."""
    if sample.seconds is None or maps.shape[-2] == 1:
        return maps
    assert sample.picture is not None
    return maps[..., : sample.picture.shape[1]]


def _note(attribution: Attribution) -> str:
    curves = attribution.curves
    return f"del {curves.deletion_auc:.2f} ins {curves.insertion_auc:.2f}"
