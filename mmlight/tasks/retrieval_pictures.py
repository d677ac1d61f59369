"""Pictures of retrieval: similarities, what was found for a query, sounds, the joint space.

Shapes: N samples that are shown, D joint width.
"""

from itertools import permutations
from pathlib import Path
from typing import Literal

import numpy as np

from mmlight.metrics.retrieved import RetrievalEvaluation
from mmlight.runs.plots.canvas import spread
from mmlight.runs.plots.examples import (
    Example,
    Found,
    Retrieval,
    plot_retrieval,
    plot_spectrograms,
)
from mmlight.runs.plots.joint_space import plot_joint_space, plot_similarity
from mmlight.runs.show.sounds import keep_sounds
from mmlight.tasks.pictures import ShownSamples

_MOST_SPECTROGRAMS = 6
_FEWEST_POINTS = 8  # of a joint space


class RetrievalPictures:
    """Draws what retrieval found among the samples that were kept.

    Args:
        evaluation: features of the whole set.
        shown: the samples; those of another set are left out.
    """

    def __init__(self, evaluation: RetrievalEvaluation, shown: ShownSamples) -> None:
        self._evaluation = evaluation
        self._shown = shown
        self._samples = sorted(shown.kept.keys() & set(evaluation.samples_S.tolist()))
        # Of several captions the first.
        self._row = {
            name: {item: row for row, item in reversed(list(enumerate(items_N.tolist())))}
            for name, items_N in evaluation.items.items()
        }
        self._captions = {
            item: evaluation.captions[row] for item, row in self._row.get("text", {}).items()
        }

    def draw(self, folder: Path) -> list[Path]:
        """Draw everything that there is to draw; return the files.

        Args:
            folder: where they go; their names begin with the stage.
        """
        names = list(self._evaluation.features)
        drawn: list[Path] = []
        for query, gallery in permutations(names, 2):
            both = [s for s in self._samples if s in self._row[query] and s in self._row[gallery]]
            if len(both) > 1:
                if names.index(query) < names.index(gallery):
                    drawn.append(self._draw_similarity(query, gallery, both, folder))
                drawn.append(self._draw_retrieval(query, gallery, both, folder))
        sounds = [
            self._example(s, "audio") for s in self._samples if "audio" in self._shown.kept[s]
        ]
        if sounds:
            path, rate = self._path(folder, "spectrograms"), self._shown.sample_rate_hz
            sounds = sounds[:_MOST_SPECTROGRAMS]
            drawn.append(plot_spectrograms(sounds, path, sample_rate_hz=rate))
            self._keep_sounds(path, [(sound.caption, sound) for sound in sounds])
        joint = self._draw_joint_space(folder)
        return [*drawn, *([joint] if joint else [])]

    def _path(self, folder: Path, name: str) -> Path:
        return folder / f"{self._evaluation.stage}_{name}.png"

    def _features(self, modality: str, samples: list[int]) -> np.ndarray:
        return self._evaluation.features[modality][[self._row[modality][s] for s in samples]]

    def _example(self, sample: int, modality: str) -> Example:
        kept = self._shown.kept[sample].get(modality, Example())
        return Example(kept.pixels_CHW, kept.waveform_T, self._captions.get(sample, ""))

    def _keep_sounds(self, picture: Path, examples: list[tuple[str, Example]]) -> None:
        heard = [(about, e.waveform_T) for about, e in examples if e.waveform_T is not None]
        if heard and self._shown.sample_rate_hz is not None:
            keep_sounds(picture, heard, sample_rate_hz=self._shown.sample_rate_hz)

    def _draw_similarity(self, query: str, gallery: str, samples: list[int], folder: Path) -> Path:
        has_captions = self._captions.keys() >= set(samples)
        return plot_similarity(
            self._features(query, samples),
            self._features(gallery, samples),
            self._path(folder, f"similarity_{query}_{gallery}"),
            query=query,
            gallery=gallery,
            labels_N=self._evaluation.labels_of(np.array(samples)),
            captions=[self._captions[s] for s in samples] if has_captions else None,
        )

    def _draw_retrieval(self, query: str, gallery: str, samples: list[int], folder: Path) -> Path:
        similarity_NN = self._features(query, samples) @ self._features(gallery, samples).T
        retrievals = self.retrievals(similarity_NN, samples, query, gallery)
        path = plot_retrieval(
            retrievals,
            self._path(folder, f"retrieval_{query}_to_{gallery}"),
            query=query,
            gallery=gallery,
            num_gallery=len(samples),
            sample_rate_hz=self._shown.sample_rate_hz,
        )
        heard = []
        for row, retrieval in enumerate(retrievals, start=1):
            found = [(f"row {row}, found first", one.example) for one in retrieval.found[:1]]
            for place, example in [(f"row {row}, query", retrieval.query), *found]:
                heard.append((f"{place}: {example.caption}".rstrip(": "), example))
        self._keep_sounds(path, heard)
        return path

    def retrievals(
        self, similarity_NN: np.ndarray, samples: list[int], query: str, gallery: str
    ) -> list[Retrieval]:
        """Return some of the samples as queries, each with the nearest of all of them.

        Args:
            similarity_NN: of queries (rows) and gallery.
            samples: their numbers.
            query: modality of the queries.
            gallery: modality of the gallery.
        """
        shown = self._shown
        labels_N = self._evaluation.labels_of(np.array(samples))
        retrievals = []
        for row in spread(len(samples), shown.num_queries):
            found = []
            best = np.argsort(-similarity_NN[row], kind="stable")[: shown.num_found]
            for column in best.tolist():
                kind: Literal["own", "class", "other"] = "other"
                if row == column:
                    kind = "own"
                elif labels_N is not None and labels_N[row] == labels_N[column] >= 0:
                    kind = "class"
                example = self._example(samples[column], gallery)
                found.append(Found(example, float(similarity_NN[row, column]), kind))
            retrievals.append(Retrieval(self._example(samples[row], query), found))
        return retrievals

    def _draw_joint_space(self, folder: Path) -> Path | None:
        evaluation = self._evaluation
        places = spread(len(evaluation.samples_S), self._shown.num_projected)
        shown_S = evaluation.samples_S[places]
        rows = {n: np.isin(items, shown_S) for n, items in evaluation.items.items()}
        features = {n: evaluation.features[n][keep] for n, keep in rows.items() if keep.any()}
        if sum(map(len, features.values())) < _FEWEST_POINTS:
            return None
        items = {n: evaluation.items[n][rows[n]] for n in features}
        labels = {n: evaluation.labels_of(values) for n, values in items.items()}
        return plot_joint_space(
            features,
            items,
            self._path(folder, "joint_space"),
            labels={n: values for n, values in labels.items() if values is not None} or None,
            class_names=self._shown.class_names,
            method=self._shown.projection,
        )
