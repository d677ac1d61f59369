"""Classifiers on frozen features: weighted nearest neighbours, and logistic regression.

Shapes: N training rows, Q queries, D feature width, K classes.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def knn_logits(
    train_ND: Tensor,
    label_N: Tensor,
    query_QD: Tensor,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> Tensor:
    """Return the votes (Q, K) of each query's nearest training rows by cosine.

    The k nearest vote for their class with weight exp(similarity / temperature) (arXiv 1805.01978,
    section 3.4; DINO's k-NN evaluation).

    Args:
        train_ND: features of any length.
        label_N: int64 classes.
        query_QD: features of any length.
        num_classes: K.
        k: neighbours that vote; all where there are fewer.
        temperature: smaller trusts the nearest more.
        chunk: queries compared at once.
    """
    train_DN = F.normalize(train_ND.float(), dim=1).T
    parts = []
    for start in range(0, len(query_QD), chunk):
        query_CD = F.normalize(query_QD[start : start + chunk].float(), dim=1)
        nearest = (query_CD @ train_DN).topk(min(k, train_DN.shape[1]), dim=1)
        weight_Ck = (nearest.values / temperature).exp()
        votes_CK = weight_Ck.new_zeros(len(query_CD), num_classes)
        parts.append(votes_CK.scatter_add_(1, label_N[nearest.indices], weight_Ck))
    return torch.cat(parts)


def linear_labels(
    train_ND: np.ndarray,
    label_N: np.ndarray,
    query_QD: np.ndarray,
    *,
    inverse_l2: float = 1.0,
) -> np.ndarray:
    """Return the classes (Q,) that a logistic regression on standardised features gives.

    Args:
        train_ND: features.
        label_N: int64 classes.
        query_QD: features.
        inverse_l2: scikit-learn's C: smaller means more regularisation.
    """
    # Takes 0.5 s to load, and the command line's parser loads this module for the settings.
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(label_N)) < 2:  # which the regression refuses
        return np.full(len(query_QD), label_N[0])
    scale = StandardScaler().fit(train_ND)
    probe = LogisticRegression(C=inverse_l2, max_iter=1000)
    probe.fit(scale.transform(train_ND), label_N)
    found_Q: np.ndarray = probe.predict(scale.transform(query_QD))
    return found_Q


def label_figures(found_Q: np.ndarray, true_Q: np.ndarray) -> dict[str, float]:
    """Return accuracy and macro F1 over the classes that occur in either."""
    from sklearn.metrics import f1_score

    macro = f1_score(true_Q, found_Q, average="macro", zero_division=0.0)
    return {"accuracy": float((found_Q == true_Q).mean()), "macro_f1": float(macro)}
