"""Retrieval scores over a whole set, in memory that is linear in its size.

Shapes: N queries and M gallery rows of the joint width D. Several rows may belong to one item
(the captions of an image).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlight.errors import UserError


@dataclass(frozen=True)
class RetrievalScores:
    """How well queries find a gallery row of their own item.

    Attributes:
        recall_at: share of queries, in [0, 1], with a row of their item among the first k, by k.
        median_rank: median over queries of the rank of the first such row, from 1.
        mean_reciprocal_rank: mean of 1 / that rank, in (0, 1].
        num_queries: queries counted: those whose item has a row in the gallery.
        num_gallery: gallery rows, M.
        chance_recall_at_1: the expected recall at 1 of a random order.
    """

    recall_at: dict[int, float]
    median_rank: float
    mean_reciprocal_rank: float
    num_queries: int
    num_gallery: int
    chance_recall_at_1: float


@torch.no_grad()
def retrieval(
    query_ND: Tensor,
    gallery_MD: Tensor,
    query_item_N: Tensor,
    gallery_item_M: Tensor,
    *,
    ks: Sequence[int] = (1, 5, 10),
    chunk: int = 1024,
) -> RetrievalScores:
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
        query_item_N: int64, the item of each query.
        gallery_item_M: int64, the item of each gallery row.
        ks: cut-offs, each at least 1.
        chunk: queries ranked at once: memory is O((N + M) D + chunk M).

    Returns:
        The scores; with no query that has its item in the gallery they are NaN, and `num_queries`
        is 0.

    Raises:
        UserError: a cut-off below 1.
    """
    if not ks or min(ks) < 1:
        raise UserError(f"recall cut-offs {list(ks)}: each k must be at least 1, such as 1, 5, 10")
    device = query_ND.device
    gallery_item_M = gallery_item_M.to(device)
    query_item_N = query_item_N.to(device)
    known_N = torch.isin(query_item_N, gallery_item_M)
    num_queries, num_gallery = int(known_N.sum()), len(gallery_item_M)
    if num_queries == 0:
        nan = float("nan")
        return RetrievalScores(dict.fromkeys(ks, nan), nan, nan, 0, num_gallery, nan)
    item_Q = query_item_N[known_N]
    rank_parts, positive_parts = [], []
    hit_parts: dict[int, list[Tensor]] = {k: [] for k in ks}
    for rows, similarity_CM in _similarities(query_ND[known_N], gallery_MD, chunk=chunk):
        positive_CM = item_Q[rows, None] == gallery_item_M[None, :]
        best_C1 = similarity_CM.masked_fill(~positive_CM, -torch.inf).amax(1, keepdim=True)
        # "Not at most" rather than "greater": a NaN then counts against the query.
        better_C = (~(similarity_CM <= best_C1) & ~positive_CM).sum(1)
        equal_CM = similarity_CM == best_C1
        tied_C = (equal_CM & ~positive_CM).sum(1)
        own_C = (equal_CM & positive_CM).sum(1).clamp(min=1)
        # The expected place of the first of `own` rows in a random order of own + tied.
        rank_parts.append(better_C + (own_C + tied_C + 1).double() / (own_C + 1))
        positive_parts.append(positive_CM.sum(1))
        for k in ks:
            hit_parts[k].append(_probability_of_hit(k - better_C, own=own_C, tied=tied_C))
    rank_Q = torch.cat(rank_parts)
    return RetrievalScores(
        recall_at={k: float(torch.cat(parts).mean()) for k, parts in hit_parts.items()},
        median_rank=_median(rank_Q),
        mean_reciprocal_rank=float((1 / rank_Q).mean()),
        num_queries=num_queries,
        num_gallery=num_gallery,
        chance_recall_at_1=float((torch.cat(positive_parts).double() / num_gallery).mean()),
    )


@torch.no_grad()
def precision_at_1_by_class(
    query_ND: Tensor,
    gallery_MD: Tensor,
    query_label_N: Tensor,
    gallery_label_M: Tensor,
    *,
    chunk: int = 1024,
) -> float:
    """Return the share of queries whose most similar gallery row has their label.

    The gallery is of another modality, and the query's own sample in it counts like any other row
    of its class. Rows without a label (below 0) are left out on both sides. Ties count as in
    `retrieval`.

    Args:
        query_ND: features of any length, compared by cosine in float32.
        gallery_MD: likewise, on the same device.
        query_label_N: int64 classes.
        gallery_label_M: int64 classes.
        chunk: queries compared at once.

    Returns:
        A number in [0, 1], or NaN if no query or no gallery row has a label.
    """
    device = query_ND.device
    query_label_N, gallery_label_M = query_label_N.to(device), gallery_label_M.to(device)
    gallery_MD = gallery_MD[gallery_label_M >= 0]
    query_ND = query_ND[query_label_N >= 0]
    label_M, label_Q = gallery_label_M[gallery_label_M >= 0], query_label_N[query_label_N >= 0]
    if not len(label_Q) or not len(label_M):
        return float("nan")
    parts = []
    for rows, similarity_CM in _similarities(query_ND, gallery_MD, chunk=chunk):
        nearest_CM = similarity_CM == similarity_CM.amax(1, keepdim=True)
        same_CM = nearest_CM & (label_Q[rows, None] == label_M[None, :])
        # A row of NaN equals nothing: 0 of 1.
        parts.append(same_CM.sum(1).double() / nearest_CM.sum(1).clamp(min=1))
    return float(torch.cat(parts).mean())


@torch.no_grad()
def mean_average_precision_by_class(
    query_ND: Tensor,
    gallery_MD: Tensor,
    query_label_N: Tensor,
    gallery_label_M: Tensor,
    *,
    chunk: int = 1024,
) -> float:
    """Return the mean average precision, where rows of the query's class are the relevant ones.

    Tied rows share the precision at the end of their tie, as in scikit-learn's
    ``average_precision_score``. Arguments are those of `precision_at_1_by_class`; queries of a
    class that the gallery lacks are left out. A row of NaN counts 0.

    Returns:
        A number in [0, 1], or NaN if no query has a relevant row.
    """
    device = query_ND.device
    query_label_N, gallery_label_M = query_label_N.to(device), gallery_label_M.to(device)
    gallery_MD = gallery_MD[gallery_label_M >= 0]
    label_M = gallery_label_M[gallery_label_M >= 0]
    wanted_N = torch.isin(query_label_N, label_M)
    query_ND, label_Q = query_ND[wanted_N], query_label_N[wanted_N]
    if not len(label_Q):
        return float("nan")
    place_M = torch.arange(len(label_M), device=device)
    parts = []
    for rows, similarity_CM in _similarities(query_ND, gallery_MD, chunk=chunk):
        sorted_CM, order_CM = similarity_CM.sort(1, descending=True)
        relevant_CM = label_M[order_CM] == label_Q[rows, None]
        precision_CM = relevant_CM.cumsum(1).double() / (place_M + 1)
        ends_CM = F.pad(sorted_CM[:, 1:] != sorted_CM[:, :-1], (0, 1), value=True)
        end_CM = torch.where(ends_CM, place_M, len(place_M)).flip(1).cummin(1).values.flip(1)
        at_CM = precision_CM.gather(1, end_CM) * relevant_CM
        average_C = at_CM.sum(1) / relevant_CM.sum(1)
        parts.append(average_C.where(similarity_CM.isfinite().all(1), 0.0))
    return float(torch.cat(parts).mean())


def _similarities(
    query_QD: Tensor, gallery_MD: Tensor, *, chunk: int
) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows and their cosine similarities (C, M) to the gallery, `chunk` queries at a time."""
    with torch.autocast(query_QD.device.type, enabled=False):
        gallery_DM = F.normalize(gallery_MD.float(), dim=-1).T
        for start in range(0, len(query_QD), chunk):
            rows = slice(start, start + chunk)
            yield rows, F.normalize(query_QD[rows].float(), dim=-1) @ gallery_DM


def _probability_of_hit(places_C: Tensor, *, own: Tensor, tied: Tensor) -> Tensor:
    """Return the chance that `places_C` draws without replacement meet one of the `own`.

    Args:
        places_C: places left after the better rows; none if below 1.
        own: rows that count, at least 1.
        tied: rows that do not.
    """
    missed_C = torch.ones_like(places_C, dtype=torch.float64)
    for draw in range(max(0, int(places_C.max()))):
        left_C = (tied - draw).clamp(min=0).double()
        missed_C *= torch.where(places_C > draw, left_C / (left_C + own), 1.0)
    return 1 - missed_C


def _median(x_Q: Tensor) -> float:
    ordered = x_Q.sort().values
    middle = len(ordered) // 2
    return float((ordered[middle] + ordered[(len(ordered) - 1) // 2]) / 2)
