"""Scores of classification: by prompts, by nearest neighbours and by linear probes.

Shapes: N rows, K classes, D feature width.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mmlight.errors import UserError
from mmlight.metrics.bootstrap import (
    Score,
    Statistic,
    mean_average_precision,
    mean_of,
    mean_per_class,
)
from mmlight.metrics.linear_probe import (
    INVERSE_L2,
    WEIGHT_DECAYS,
    Linear,
    fit_adamw,
    fit_lbfgs,
    search_peak,
)
from mmlight.metrics.neighbours import knn_logits
from mmlight.metrics.zero_shot import class_ranks, ranks_of_labels
from mmlight.suites.scored import Scored, Scoring
from mmlight.suites.suite import FewShotTask, KnnTask, LinearProbeTask

_TOP = 5
# As good as none, where nothing is there to choose by.
_UNREGULARISED = 1e6


def zero_shot(on: Scoring) -> Scored:
    """Score samples by the nearest class name."""
    feature_ND, label_N = on.labelled("test")
    ranks_N = class_ranks(feature_ND, on.prompts(), label_N)
    return Scored(on.estimate(_of_ranks(ranks_N, label_N, on.num_classes), size=len(label_N)))


def multi_label(on: Scoring) -> Scored:
    """Score samples of several classes by the similarity of each to the class names."""
    test = on.features["test"]
    assert test.target_SK is not None
    rows_N = test.item[on.modality]
    similarity_NK = test.feature[on.modality].float() @ on.prompts().T.to(test.sample_S.device)
    statistic = mean_average_precision(similarity_NK, test.target_SK[rows_N])
    return Scored(on.estimate({"mean_average_precision": statistic}, size=len(rows_N)))


def knn(on: Scoring, settings: KnnTask) -> Scored:
    """Score samples by the votes of the nearest training samples."""
    train_ND, label_N = on.labelled("train")
    feature_QD, label_Q = on.labelled("test")
    votes_QK = knn_logits(
        train_ND,
        label_N,
        feature_QD,
        num_classes=on.num_classes,
        k=settings.k,
        temperature=settings.temperature,
    )
    ranks_Q = ranks_of_labels(votes_QK, label_Q)
    return Scored(on.estimate(_of_ranks(ranks_Q, label_Q, on.num_classes), size=len(label_Q)))


def linear_probe(on: Scoring, settings: LinearProbeTask) -> Scored:
    """Score a linear classifier, fitted on train and validation samples as the latter suit best."""
    train, test = on.labelled("train"), on.labelled("test")
    val = on.labelled("val") if "val" in on.features else None
    if val is None and settings.val_share:
        train, val = _split(train, share=settings.val_share, seed=settings.seed)
    fit, grid, none = _solver(settings, on.num_classes)
    chosen = none
    if val is not None:
        check, answers = val
        chosen = grid[
            search_peak(
                lambda place: _accuracy(fit(train, grid[place]), check, answers), size=len(grid)
            )
        ]
        train = torch.cat([train[0], val[0]]), torch.cat([train[1], val[1]])
    ranks_Q = ranks_of_labels(fit(train, chosen)(test[0]), test[1])
    scores = on.estimate(_of_ranks(ranks_Q, test[1], on.num_classes), size=len(test[1]))
    return Scored(scores, {"inverse_l2" if settings.solver == "lbfgs" else "weight_decay": chosen})


def few_shot(on: Scoring, settings: FewShotTask) -> Scored:
    """Score linear probes on a few samples of each class: means over draws, with their spread."""
    train, (query_QD, label_Q) = on.labelled("train"), on.labelled("test")
    scores: dict[str, Score] = {}
    for shots in settings.shots:
        hits = []
        for draw in range(settings.draws):
            few, val = _draw_shots(on, train, shots=shots, seed=settings.seed, draw=draw)
            fit = _lbfgs(on.num_classes, LinearProbeTask.max_steps)
            chosen = INVERSE_L2[
                search_peak(
                    lambda place, few=few, val=val, fit=fit: _accuracy(  # type: ignore[misc]
                        fit(few, INVERSE_L2[place]), *val
                    ),
                    size=len(INVERSE_L2),
                )
            ]
            found = fit(few, chosen)(query_QD)
            hits.append((ranks_of_labels(found, label_Q) < 1).double())
        each = torch.stack([hit_Q.mean() for hit_Q in hits])
        mean = on.estimate({"mean": mean_of(torch.stack(hits).mean(0))}, size=len(label_Q))["mean"]
        spread = float(each.std()) if len(hits) > 1 else None
        scores[f"{shots}_shots/accuracy_at_1"] = replace(mean, sd=spread)
    return Scored(scores)


def _of_ranks(ranks_N: Tensor, label_N: Tensor, num_classes: int) -> dict[str, Statistic]:
    """Return the scores of ranks of the right classes, 0 for the best."""
    hit_N = ranks_N < 1
    found = {"accuracy_at_1": mean_of(hit_N)}
    if num_classes > _TOP:  # among five at most, it is always found
        found["accuracy_at_5"] = mean_of(ranks_N < _TOP)
    found["mean_per_class_recall"] = mean_per_class(hit_N, label_N, num_classes=num_classes)
    return found


Rows = tuple[Tensor, Tensor]
Fit = Callable[[Rows, float], Linear]


def _solver(settings: LinearProbeTask, num_classes: int) -> tuple[Fit, tuple[float, ...], float]:
    """Return what fits, what is chosen from, and what is taken without a validation."""
    if settings.solver == "lbfgs":
        return _lbfgs(num_classes, settings.max_steps), INVERSE_L2, _UNREGULARISED

    def fit(rows: Rows, weight_decay: float) -> Linear:
        return fit_adamw(
            *rows,
            num_classes=num_classes,
            weight_decay=weight_decay,
            lr=settings.lr,
            epochs=settings.epochs,
            seed=settings.seed,
        )

    return fit, WEIGHT_DECAYS, 0.0


def _lbfgs(num_classes: int, max_steps: int) -> Fit:
    def fit(rows: Rows, inverse_l2: float) -> Linear:
        return fit_lbfgs(*rows, num_classes=num_classes, inverse_l2=inverse_l2, max_steps=max_steps)

    return fit


def _accuracy(classifier: Linear, feature_ND: Tensor, label_N: Tensor) -> float:
    return float((ranks_of_labels(classifier(feature_ND), label_N) < 1).double().mean())


def _shuffled(size: int, *, seed: int, stream: int) -> np.ndarray:
    """Return an order that depends on the arguments alone, in every version of NumPy."""
    bits = np.random.Philox(key=np.array([seed % 2**64, stream], np.uint64))
    return np.argsort(bits.random_raw(size), kind="stable")


def _split(rows: Rows, *, share: float, seed: int) -> tuple[Rows, Rows]:
    """Return the rows without a part of them, and that part."""
    feature_ND, label_N = rows
    order = torch.from_numpy(_shuffled(len(label_N), seed=seed, stream=1))
    count = min(max(1, round(share * len(label_N))), len(label_N) - 1)
    if count < 1:
        raise UserError("linear_probe: one training sample leaves nothing to validate on")
    val, rest = order[:count], order[count:].sort().values
    return (feature_ND[rest], label_N[rest]), (feature_ND[val], label_N[val])


def _draw_shots(on: Scoring, rows: Rows, *, shots: int, seed: int, draw: int) -> tuple[Rows, Rows]:
    """Return some rows of each class, and a few others to validate on."""
    feature_ND, label_N = rows
    few, val = [], []
    order = torch.from_numpy(_shuffled(len(label_N), seed=seed, stream=2 + draw))
    checked = min(shots, 4)
    for label in range(on.num_classes):
        mine = order[label_N[order] == label]
        if not len(mine):  # a class that training lacks
            continue
        if len(mine) < shots + checked:
            raise UserError(
                f"few_shot: {shots} shots need {shots + checked} training samples of each class "
                f"({checked} to validate on), but class {label} has {len(mine)}"
            )
        few.append(mine[:shots])
        val.append(mine[shots : shots + checked])
    chosen, checks = torch.cat(few), torch.cat(val)
    return (feature_ND[chosen], label_N[chosen]), (feature_ND[checks], label_N[checks])
