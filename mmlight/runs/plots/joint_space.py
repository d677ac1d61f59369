"""The joint space of several modalities: flat, and as the similarities of pairs."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmlight.class_names import shown_names
from mmlight.runs.plots.canvas import (
    COLORS,
    MODALITY_COLORS,
    MODALITY_MARKERS,
    bare,
    new_figure,
    save,
    wrap,
)

_MOST_CLASSES = 10


def plot_joint_space(
    features: dict[str, np.ndarray],
    items: dict[str, np.ndarray],
    path: Path,
    *,
    labels: dict[str, np.ndarray] | None = None,
    class_names: list[str] | None = None,
    method: Literal["pca", "tsne"] = "tsne",
) -> Path:
    """Draw every embedding as a point; a marker per modality, thin lines between a sample's own.

    Colours tell classes where there are at most ten, else modalities.

    Args:
        features: by modality, (N, D) unit-length features.
        items: by modality, (N,) the sample of each row.
        path: the PNG to write.
        labels: by modality, (N,) class numbers.
        class_names: names of the classes.
        method: `pca` keeps distances as far as a plane can; `tsne` keeps neighbourhoods, and
            neither sizes nor distances of groups mean anything.
    """
    names = list(features)
    flat_MD = np.concatenate([features[name] for name in names]).astype(np.float64)
    plane_M2 = project(flat_MD, method=method)
    ends = np.cumsum([0, *(len(features[name]) for name in names)])
    at = {n: plane_M2[a:b] for n, a, b in zip(names, ends[:-1], ends[1:], strict=True)}
    figure = new_figure(width=8.6, height=6.4)
    axes: Any = figure.subplots()
    _link(axes, at, items)
    classes = _classes(labels)
    color_of = {number: COLORS[i % len(COLORS)] for i, number in enumerate(classes)}
    for name in names:
        marker: Any = {"marker": MODALITY_MARKERS.get(name, "D"), "s": 26, "linewidths": 0.4}
        if not classes or labels is None:
            color = MODALITY_COLORS.get(name, "#777777")
            axes.scatter(*at[name].T, color=color, edgecolors="white", label=name, **marker)
            continue
        colors = [color_of.get(number, "#BBBBBB") for number in labels[name].tolist()]
        axes.scatter(*at[name].T, c=colors, edgecolors="white", **marker)
        axes.scatter([], [], color="#555555", label=name, **marker)
    captions = shown_names(class_names or [])
    for number in classes:
        label = captions[number] if number < len(captions) else f"class {number}"
        axes.scatter([], [], color=color_of[number], marker="s", s=40, label=label)
    bare(axes)
    axes.spines[:].set_color("#BBBBBB")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, frameon=False)
    how = "t-SNE" if method == "tsne" else "first two principal components"
    samples = len(np.unique(np.concatenate([items[name] for name in names])))
    axes.set_title(f"Joint space of {samples} samples, {how}", fontsize=11, loc="left")
    return save(figure, path)


def project(features_MD: np.ndarray, *, method: Literal["pca", "tsne"]) -> np.ndarray:
    """Return (M, 2) coordinates, the same for the same features.

    Args:
        features_MD: (M, D) features; M at least 3.
        method: see `plot_joint_space`.
    """
    centred_MD = features_MD - features_MD.mean(0)
    _, _, axes_DD = np.linalg.svd(centred_MD, full_matrices=False)
    # The sign of a principal axis is arbitrary, and differs between LAPACKs.
    axes_DD = (
        axes_DD * np.sign(axes_DD[np.arange(len(axes_DD)), np.abs(axes_DD).argmax(1)])[:, None]
    )
    if method == "pca":
        return centred_MD @ axes_DD[:2].T
    from sklearn.manifold import TSNE

    reduced_MD = centred_MD @ axes_DD[:32].T
    perplexity = min(30.0, max(2.0, (len(features_MD) - 1) / 4))
    return TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(reduced_MD)


def _link(axes: Any, at: dict[str, np.ndarray], items: dict[str, np.ndarray]) -> None:
    from matplotlib.collections import LineCollection

    first = next(iter(at))
    home = {item: row for row, item in reversed(list(enumerate(items[first].tolist())))}
    lines = [
        (at[first][home[item]], at[name][row])
        for name in at
        if name != first
        for row, item in enumerate(items[name].tolist())
        if item in home
    ]
    axes.add_collection(
        LineCollection(lines, colors="#999999", linewidths=0.4, alpha=0.5, zorder=0)
    )


def _classes(labels: dict[str, np.ndarray] | None) -> list[int]:
    """The classes to tell apart by colour; none where there are too many, or only one."""
    if labels is None:
        return []
    known = sorted({c for values in labels.values() for c in values.tolist() if c >= 0})
    return known if 1 < len(known) <= _MOST_CLASSES else []


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
