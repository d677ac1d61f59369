"""Scores of matching one modality with another: retrieval, and right against wrong captions.

Shapes: S samples, N rows of a modality, D joint width.
"""

from itertools import permutations

import torch
from torch import Tensor

from mmlight.errors import UserError
from mmlight.metrics.bootstrap import Statistic, mean_of, ratio_of
from mmlight.metrics.recall import retrieved
from mmlight.suites.features import Features
from mmlight.suites.scored import Scored, Scoring, sums_of
from mmlight.suites.suite import PairsTask, RetrievalTask


def retrieval(on: Scoring, settings: RetrievalTask) -> Scored:
    """Score every ordered pair of modalities; samples are drawn with all of their captions."""
    test = on.features["test"]
    statistics: dict[str, Statistic] = {}
    for query, gallery in permutations(test.feature, 2):
        item_N, item_M = test.item[query], test.item[gallery]
        known_N = torch.isin(item_N, item_M)
        if not known_N.any():
            continue
        found = retrieved(
            test.feature[query][known_N],
            test.feature[gallery],
            item_N[known_N],
            item_M,
            ks=settings.ks,
        )
        count_S = sums_of(torch.ones(int(known_N.sum())), item_N[known_N], size=len(test))
        for k, hit_N in found.hit_N.items():
            hit_S = sums_of(hit_N, item_N[known_N], size=len(test))
            statistics[f"{query}_to_{gallery}/recall_at_{k}"] = ratio_of(hit_S, count_S)
    if not statistics:
        raise UserError("retrieval: no sample has two modalities")
    return Scored(on.estimate(statistics, size=len(test)))


def pairs(on: Scoring, settings: PairsTask) -> Scored:
    """Score right captions against wrong ones; an equal similarity is a miss."""
    if "second" in on.features:
        return _two_by_two(on)
    test = on.features["test"]
    similarity_N = _similarity(test, on)
    item_N = test.item["text"]
    # Captions of a sample stand together: the place of each among its own.
    count_S = torch.bincount(item_N, minlength=len(test))
    first_S = count_S.cumsum(0) - count_S
    is_right_N = torch.arange(len(item_N)) - first_S[item_N] < settings.right
    has_both_S = (count_S > settings.right) & torch.isin(
        torch.arange(len(test)), test.item[on.modality]
    )
    if not has_both_S.any():
        raise UserError(
            f"pairs: no sample has {settings.right} right caption and a wrong one after it"
        )
    low_S = _extreme(similarity_N, item_N, is_right_N, size=len(test), largest=False)
    high_S = _extreme(similarity_N, item_N, ~is_right_N, size=len(test), largest=True)
    hit_S = (low_S > high_S)[has_both_S]
    chance_S = (settings.right / count_S.clamp(min=1).double())[has_both_S]
    scores = on.estimate({"accuracy": mean_of(hit_S)}, size=len(hit_S))
    return Scored(scores, {"chance": float(chance_S.mean())} if settings.right == 1 else {})


def _extreme(
    value_N: Tensor, item_N: Tensor, keep_N: Tensor, *, size: int, largest: bool
) -> Tensor:
    """Return the largest, or the smallest, of each item's values that are kept."""
    empty_S = torch.full((size,), -torch.inf if largest else torch.inf)
    how = "amax" if largest else "amin"
    return empty_S.scatter_reduce(0, item_N[keep_N], value_N[keep_N].float(), reduce=how)


def _similarity(features: Features, on: Scoring) -> Tensor:
    """Return the cosine of each caption and its own sample (N,); nan where that has nothing."""
    own_SD = torch.full((len(features), features.feature["text"].shape[1]), torch.nan)
    own_SD[features.item[on.modality]] = features.feature[on.modality]
    return (own_SD[features.item["text"]] * features.feature["text"]).sum(1)


def _two_by_two(on: Scoring) -> Scored:
    """Score samples of two images and a caption for each (arXiv 2204.03162, section 3)."""
    first, second = on.features["test"], on.features["second"]
    both = [sorted(set(first.sample_S.tolist()) & set(second.sample_S.tolist()))][0]
    found: dict[tuple[str, int], Tensor] = {}
    for number, features in enumerate((first, second)):
        place = torch.searchsorted(features.sample_S, torch.tensor(both, dtype=torch.int64))
        for name in (on.modality, "text"):
            item_N = features.item[name]
            if len(item_N) != len(features) or len(item_N.unique()) != len(item_N):
                raise UserError(f"pairs: with second, each sample has one {name} of each kind")
            found[name, number] = features.feature[name][place]
    cos = {
        (i, c): (found[on.modality, i] * found["text", c]).sum(1) for i in (0, 1) for c in (0, 1)
    }
    text_S = (cos[0, 0] > cos[0, 1]) & (cos[1, 1] > cos[1, 0])
    image_S = (cos[0, 0] > cos[1, 0]) & (cos[1, 1] > cos[0, 1])
    named = {
        "group_accuracy": text_S & image_S,
        "text_accuracy": text_S,
        f"{on.modality}_accuracy": image_S,
    }
    statistics = {name: mean_of(hit_S) for name, hit_S in named.items()}
    return Scored(on.estimate(statistics, size=len(both)), {"chance": 1 / 6})
