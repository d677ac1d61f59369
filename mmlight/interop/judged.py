"""What a model draws, seen by models that were trained on their own.

Shapes as in `mmlight.batch`: B samples, C channels, H and W pixels, D features.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlight.batch import Batch, Images
from mmlight.errors import UserError
from mmlight.interop.embedder import Embedder
from mmlight.metrics.frechet import frechet_distance
from mmlight.tasks.evaluation import evaluate
from mmlight.tasks.task import Task


class Draws(Protocol):
    """A task that makes an image of each sample: drawn from its caption, or rebuilt."""

    def redrawn(self, batch: Batch) -> Images:
        """Return the images."""
        ...


@dataclass(frozen=True)
class Judgement:
    """What a judge says of images.

    Attributes:
        drawn: its scores where each sample has the image that was drawn.
        real: its scores of the samples as they are.
        frechet_distance: of the drawn images from the real ones, in its features.
        num_samples: how many were drawn.
        shown: the first of them, uint8 (C, H, W) each.
        captions: of these, where there are any.
    """

    drawn: dict[str, float]
    real: dict[str, float]
    frechet_distance: float | None
    num_samples: int
    shown: list[Tensor]
    captions: list[str]


def judge_images(
    drawer: Draws, judge: Task, batches: Iterable[Batch], *, num_shown: int = 16
) -> Judgement:
    """Score what a model draws of some samples by a judge.

    Args:
        drawer: the model.
        judge: a task with an image tower, whose targets the samples have.
        batches: the samples, on the device of both.
        num_shown: how many images are kept.

    Raises:
        UserError: a judge that reads no images, or images of other channels.
    """
    if "image" not in judge.tower_settings.given():
        raise UserError(f"the judge is a {type(judge).__name__} without an image tower")
    pairs: list[tuple[Batch, Batch]] = []
    shown: list[Tensor] = []
    captions: list[str] = []
    for batch in batches:
        image = drawer.redrawn(batch)
        known = batch.valid_B.nonzero()[:, 0].tolist()
        for row in known[: max(0, num_shown - len(shown))]:
            shown.append(image.pixels_BCHW[row].cpu())
            if batch.text is not None:
                captions.append(batch.captions[int(batch.text.first_rows(batch.size)[row])])
        real = replace(batch, image=_fitted(batch.image, judge))
        pairs.append((replace(real, image=_fitted(image, judge)), real))
    drawn, real_scores = (
        evaluate(judge, [pair[which] for pair in pairs], stage="val") for which in (0, 1)
    )
    return Judgement(
        drawn=drawn,
        real=real_scores,
        frechet_distance=_distance(judge, pairs),
        num_samples=sum(int(batch.valid_B.sum()) for batch, _ in pairs),
        shown=shown,
        captions=captions,
    )


@torch.no_grad()
def _distance(judge: Task, pairs: Sequence[tuple[Batch, Batch]]) -> float | None:
    encoder = judge.tower("image").encoder
    if not encoder.has_pooled:
        return None
    rows: list[list[Tensor]] = [[], []]
    for pair in pairs:
        for of_kind, batch in zip(rows, pair, strict=True):
            assert batch.image is not None
            of_kind.append(encoder(batch.image).pooled_BD[batch.valid_B].float().cpu())
    return frechet_distance(torch.cat(rows[0]), torch.cat(rows[1]))


def _fitted(image: Images | None, judge: Task) -> Images:
    """Return images in the size that a judge was trained on."""
    if image is None:
        raise UserError("the data has no images to compare with; name data.members.image")
    kept: Any = (judge.preprocessing or {}).get("image") or {}
    pixels_BCHW = image.pixels_BCHW
    channels, size = kept.get("channels"), kept.get("size")
    if channels is not None and channels != pixels_BCHW.shape[1]:
        raise UserError(
            f"the judge was trained on images of {channels} channels; these have "
            f"{pixels_BCHW.shape[1]}"
        )
    if isinstance(size, int) and tuple(pixels_BCHW.shape[2:]) != (size, size):
        pixels_BCHW = F.interpolate(pixels_BCHW, (size, size), mode="bilinear", antialias=True)
    return Images(pixels_BCHW, image.present_B)


def several_times(batches: Iterable[Batch], *, count: int) -> Iterator[Batch]:
    """Yield samples over and over, with a number of their own each time, until there are enough.

    Args:
        batches: of a set; it is gone through more than once.
        count: how many samples are wanted.
    """
    passed, left = 0, count
    while left > 0:
        before = left
        for batch in batches:
            keep_B = batch.valid_B & (batch.valid_B.cumsum(0) <= left)
            left -= int(keep_B.sum())
            # As many numbers as any set has samples: what is drawn of a sample depends on it.
            yield replace(batch, index_B=batch.index_B + (passed << 40), valid_B=keep_B)
            if left <= 0:
                return
        passed += 1
        if before == left:
            raise UserError("the split has no samples")


def rank_images(embedder: Embedder, prompts: Sequence[str], pixels_BCHW: Tensor) -> Tensor:
    """Return how well each image fits its prompt, (B,), by a contrastive model of ours.

    Args:
        embedder: the model.
        prompts: a prompt for each image.
        pixels_BCHW: uint8.
    """
    arrays = [one.permute(1, 2, 0).squeeze(-1).cpu().numpy() for one in pixels_BCHW]
    fits_B: Tensor = (embedder.images(arrays) * embedder.texts(list(prompts))).sum(1)
    return fits_B
