"""Retrieval scores over a whole set, in memory that is linear in its size.

Shapes: N queries and M gallery rows of the joint width D. Several rows may belong to one item
(the captions of an image).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

KS = (1, 5, 10)


@torch.no_grad()
def retrieval(
    query_ND: Tensor,
    gallery_MD: Tensor,
    query_item_N: Tensor,
    gallery_item_M: Tensor,
    *,
    ks: Sequence[int] = KS,
    chunk: int = 1024,
) -> dict[str, float]:
    """Rank the gallery by cosine similarity for every query.

    A query is found at k if *any* gallery row of its item is among the first k (CLIP_benchmark's
    convention): each caption is a query for its image, and an image finds any of its captions.
    Only the caller's rows are ranked; nothing is gathered between ranks.

    Equal similarities are scored by their expectation over a random order, so features that are
    all alike score chance and not 100 %. Queries that are not finite rank
    last, and gallery rows that are not finite rank before all others.

    Args:
        query_ND: features of any length; they are normalised, and compared in float32.
        gallery_MD: likewise, on the same device.
        query_item_N: int64, the item of each query; it has a row in the gallery.
        gallery_item_M: int64, the item of each gallery row.
        ks: cut-offs, each at least 1.
        chunk: queries ranked at once: memory is O((N + M) D + chunk M).

    Returns:
        ``recall_at_K``, the share of queries with a row of their item among the first k;
        ``median_rank``, the median over queries of the rank of the first such row, from 1;
        ``chance_recall_at_1``, the expected recall at 1 of a random order.
    """
    found = retrieved(query_ND, gallery_MD, query_item_N, gallery_item_M, ks=ks, chunk=chunk)
    return {f"recall_at_{k}": float(hit_N.mean()) for k, hit_N in found.hit_N.items()} | {
        "median_rank": float(np.median(found.rank_N.cpu().numpy())),
        "chance_recall_at_1": float(found.chance_N.mean()),
    }


@dataclass(frozen=True)
class Retrieved:
    """What each of N queries found.

    Attributes:
        hit_N: by cut-off k, float64: whether a row of its item is among the first k; between 0 and
            1 where equal similarities decide.
        rank_N: float64, the rank of the first such row, from 1.
        chance_N: float64, how likely the first row of a random order is one.
    """

    hit_N: dict[int, Tensor]
    rank_N: Tensor
    chance_N: Tensor


@torch.no_grad()
def retrieved(
    query_ND: Tensor,
    gallery_MD: Tensor,
    query_item_N: Tensor,
    gallery_item_M: Tensor,
    *,
    ks: Sequence[int] = KS,
    chunk: int = 1024,
) -> Retrieved:
    """Return what `retrieval` takes the means of; its arguments are the same."""
    parts = []
    for rows, similarity_CM in _similarities(query_ND, gallery_MD, chunk=chunk):
        positive_CM = query_item_N[rows, None] == gallery_item_M[None, :]
        best_C1 = similarity_CM.masked_fill(~positive_CM, -torch.inf).amax(1, keepdim=True)
        # "Not at most" rather than "greater": a NaN then counts against the query.
        better_CM = ~(similarity_CM <= best_C1) & ~positive_CM
        equal_CM = similarity_CM == best_C1
        counted = (better_CM, equal_CM & ~positive_CM, equal_CM & positive_CM, positive_CM)
        parts.append(torch.stack([marks_CM.sum(1) for marks_CM in counted]))
    better_N, tied_N, own_N, positive_N = torch.cat(parts, 1)
    own_N = own_N.clamp(min=1)
    return Retrieved(
        {k: _probability_of_hit(k - better_N, own=own_N, tied=tied_N) for k in ks},
        # The expected place of the first of `own` rows in a random order of own + tied.
        rank_N=better_N + (own_N + tied_N + 1).double() / (own_N + 1),
        chance_N=positive_N.double() / len(gallery_item_M),
    )


@torch.no_grad()
def class_scores(
    query_ND: Tensor,
    gallery_MD: Tensor,
    query_label_N: Tensor,
    gallery_label_M: Tensor,
    *,
    chunk: int = 1024,
) -> dict[str, float]:
    """Rank the gallery by cosine similarity, where rows of a query's class are the right ones.

    The gallery is of another modality, and the query's own sample in it counts like any other row
    of its class. A row of NaN counts 0.

    Args:
        query_ND: features of any length, compared by cosine in float32.
        gallery_MD: likewise, on the same device.
        query_label_N: int64 classes; each has a row in the gallery.
        gallery_label_M: int64 classes.
        chunk: queries compared at once.

    Returns:
        ``precision_at_1``, the share of queries whose most similar row is right, ties as in
        `retrieval`; ``class_map``, the mean average precision, in which tied rows share the
        precision at the end of their tie, as in scikit-learn's ``average_precision_score``.
    """
    place_M = torch.arange(len(gallery_label_M), device=query_ND.device)
    first_parts, average_parts = [], []
    for rows, similarity_CM in _similarities(query_ND, gallery_MD, chunk=chunk):
        label_C1 = query_label_N[rows, None]
        nearest_CM = similarity_CM == similarity_CM.amax(1, keepdim=True)
        same_CM = nearest_CM & (label_C1 == gallery_label_M[None, :])
        # A row of NaN equals nothing: 0 of 1.
        first_parts.append(same_CM.sum(1).double() / nearest_CM.sum(1).clamp(min=1))
        sorted_CM, order_CM = similarity_CM.sort(1, descending=True)
        relevant_CM = gallery_label_M[order_CM] == label_C1
        precision_CM = relevant_CM.cumsum(1).double() / (place_M + 1)
        ends_CM = F.pad(sorted_CM[:, 1:] != sorted_CM[:, :-1], (0, 1), value=True)
        end_CM = torch.where(ends_CM, place_M, len(place_M)).flip(1).cummin(1).values.flip(1)
        at_CM = precision_CM.gather(1, end_CM) * relevant_CM
        average_C = at_CM.sum(1) / relevant_CM.sum(1)
        average_parts.append(average_C.where(similarity_CM.isfinite().all(1), 0.0))
    return {
        "precision_at_1": float(torch.cat(first_parts).mean()),
        "class_map": float(torch.cat(average_parts).mean()),
    }


def _similarities(
    query_ND: Tensor, gallery_MD: Tensor, *, chunk: int
) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows and their cosine similarities (C, M) to the gallery, `chunk` queries at a time."""
    with torch.autocast(query_ND.device.type, enabled=False):
        gallery_DM = F.normalize(gallery_MD.float(), dim=-1).T
        for start in range(0, len(query_ND), chunk):
            rows = slice(start, start + chunk)
            yield rows, F.normalize(query_ND[rows].float(), dim=-1) @ gallery_DM


def _probability_of_hit(places_N: Tensor, *, own: Tensor, tied: Tensor) -> Tensor:
    """Return the chance that `places_N` draws without replacement meet one of the `own`.

    Args:
        places_N: places left after the better rows; none if below 1.
        own: rows that count, at least 1.
        tied: rows that do not.
    """
    missed_N = torch.ones_like(places_N, dtype=torch.float64)
    for draw in range(max(0, int(places_N.max()))):
        left_N = (tied - draw).clamp(min=0).double()
        missed_N *= torch.where(places_N > draw, left_N / (left_N + own), 1.0)
    return 1 - missed_N
