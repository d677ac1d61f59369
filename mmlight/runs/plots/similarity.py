"""The similarity matrix of two modalities as a heat map."""

from pathlib import Path

import numpy as np

from mmlight.runs.plots.canvas import new_figure, save, wrap


def plot_similarity(
    query_ND: np.ndarray,
    gallery_ND: np.ndarray,
    path: Path,
    *,
    query: str,
    gallery: str,
    labels_N: np.ndarray | None = None,
    captions: list[str] | None = None,
) -> Path:
    """Draw the cosine similarity of N samples in two modalities; pairs lie on the diagonal.

    Samples are grouped by class where there are classes, else sorted by caption, so that what
    means the same lies side by side.

    Args:
        query_ND: (N, D) unit-length features, the rows.
        gallery_ND: (N, D) unit-length features of the same samples, the columns.
        path: the PNG to write.
        query: modality of the rows.
        gallery: modality of the columns.
        labels_N: (N,) class numbers.
        captions: one caption per sample.
    """
    count = len(query_ND)
    order = np.arange(count)
    grouped = ""
    if labels_N is not None and len(np.unique(labels_N)) > 1:
        order, grouped = np.argsort(labels_N, kind="stable"), ", grouped by class"
    elif captions is not None:
        order, grouped = np.argsort(np.array(captions), kind="stable"), ", sorted by caption"
    similarity_NN = query_ND[order] @ gallery_ND[order].T
    # 32 captions beside the rows need 0.17 inches each.
    figure = new_figure(width=7.4, height=6.4)
    axes = figure.subplots()
    limit = float(np.abs(similarity_NN).max()) or 1.0
    picture = axes.imshow(similarity_NN, cmap="RdBu_r", vmin=-limit, vmax=limit)
    figure.colorbar(picture, ax=axes, label="cosine similarity", shrink=0.8)
    if labels_N is not None and grouped.endswith("class"):
        ends = np.flatnonzero(np.diff(labels_N[order])) + 0.5
        for end in ends if len(ends) < count / 3 else ():
            axes.axhline(end, color="black", linewidth=0.4)
            axes.axvline(end, color="black", linewidth=0.4)
    axes.set_xlabel(f"{gallery} of {count} samples{grouped}", fontsize=9)
    axes.set_ylabel(f"{query} of the same samples", fontsize=9)
    axes.tick_params(labelsize=8)
    if captions is not None and count <= 32:
        names = [wrap(captions[i], width=34, lines=1) for i in order]
        axes.set_yticks(range(count), names, fontsize=8)
    axes.set_title(f"{query} against {gallery}", fontsize=11, loc="left")
    return save(figure, path)
