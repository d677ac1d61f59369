"""Logistic regression on frozen features, its regularisation chosen on a validation split.

Shapes: N training rows, Q queries, D feature width, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# CLIP searches 1e-6 to 1e6 in 96 steps (arXiv 2103.00020, appendix A.3).
INVERSE_L2: tuple[float, ...] = tuple(np.logspace(-6, 6, 97).tolist())
WEIGHT_DECAYS: tuple[float, ...] = tuple(np.logspace(-6, 2, 97).tolist())
_COARSE = 16


@dataclass(frozen=True)
class Linear:
    """A linear classifier.

    Attributes:
        weight_KD: float32.
        bias_K: float32.
    """

    weight_KD: Tensor
    bias_K: Tensor

    def __call__(self, feature_QD: Tensor) -> Tensor:
        """Return logits (Q, K)."""
        return F.linear(feature_QD.float(), self.weight_KD, self.bias_K)


def search_peak(score: Callable[[int], float], *, size: int) -> int:
    """Return the place of a grid with the best score, looking at a sixth of it.

    Every 16th place is tried first; then the best one's neighbours 8, 4, 2 and 1 to each side
    (arXiv 2103.00020, appendix A.3). Of equals the first counts.

    Args:
        score: of a place; asked for once for each.
        size: number of places.
    """
    known: dict[int, float] = {}

    def best(places: Sequence[int]) -> int:
        for place in places:
            if place not in known:
                known[place] = score(place)
        return max(places, key=lambda place: known[place])

    peak, step = best(range(0, size, _COARSE)), _COARSE // 2
    while step > 0:
        peak = best([max(peak - step, 0), peak, min(peak + step, size - 1)])
        step //= 2
    return peak


def fit_lbfgs(
    train_ND: Tensor,
    label_N: Tensor,
    *,
    num_classes: int,
    inverse_l2: float,
    max_steps: int = 1000,
    tolerance: float = 1e-4,
) -> Linear:
    """Fit a multinomial logistic regression by L-BFGS; scikit-learn's optimum, on any device.

    Args:
        train_ND: features, taken as they are.
        label_N: int64 classes.
        num_classes: K.
        inverse_l2: scikit-learn's C: smaller means more regularisation; the bias has none.
        max_steps: of L-BFGS; CLIP's are 1,000.
        tolerance: it ends where no slope is larger; 1e-4 is scikit-learn's, so CLIP's.
    """
    from scipy.optimize import minimize

    feature_ND = train_ND.double()
    num_rows, width = feature_ND.shape
    ones_N1 = feature_ND.new_ones(num_rows, 1)
    wide_NE = torch.cat([feature_ND, ones_N1], 1)
    decay = 1 / (inverse_l2 * num_rows)
    one_hot_NK = F.one_hot(label_N, num_classes).double()

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight_KE = torch.from_numpy(flat).to(wide_NE).view(num_classes, width + 1)
        log_NK = F.log_softmax(wide_NE @ weight_KE.T, dim=1)
        kept_KE = weight_KE.clone()
        kept_KE[:, -1] = 0
        value = -(log_NK * one_hot_NK).sum() / num_rows + 0.5 * decay * (kept_KE**2).sum()
        slope_KE = (log_NK.exp() - one_hot_NK).T @ wide_NE / num_rows + decay * kept_KE
        return float(value), slope_KE.cpu().numpy().ravel()

    start = np.zeros(num_classes * (width + 1))
    options = {"maxiter": max_steps, "gtol": tolerance, "ftol": 64 * np.finfo(float).eps}
    done = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    weight_KE = torch.from_numpy(done.x).view(num_classes, width + 1).to(train_ND.device).float()
    return Linear(weight_KE[:, :-1], weight_KE[:, -1])


def fit_adamw(
    train_ND: Tensor,
    label_N: Tensor,
    *,
    num_classes: int,
    weight_decay: float,
    lr: float = 0.1,
    epochs: int = 10,
    batch_size: int = 64,
    seed: int = 0,
) -> Linear:
    """Fit a linear layer by AdamW with a cosine rate: CLIP_benchmark's linear probe.

    It draws what torch's own layer and loader would draw after ``torch.manual_seed(seed)``, so that
    one seed gives that program's classifier.

    Args:
        train_ND: features, taken as they are.
        label_N: int64 classes.
        num_classes: K.
        weight_decay: AdamW's.
        lr: the peak rate, at which it begins.
        epochs: over the training rows.
        batch_size: rows of a step.
        seed: of the first weights and the order.
    """
    draws = torch.Generator().manual_seed(seed)
    num_rows, width = train_ND.shape
    weight_KD = torch.empty(num_classes, width)
    torch.nn.init.kaiming_uniform_(weight_KD, a=5**0.5, generator=draws)
    bias_K = torch.empty(num_classes).uniform_(-(width**-0.5), width**-0.5, generator=draws)
    device = train_ND.device
    weight_KD, bias_K = (p.to(device).requires_grad_() for p in (weight_KD, bias_K))
    optimizer = torch.optim.AdamW([weight_KD, bias_K], lr=lr, weight_decay=weight_decay)
    total, step = epochs * -(-num_rows // batch_size), 0
    with torch.enable_grad():
        for _ in range(epochs):
            for rows in _loader_order(num_rows, draws).split(batch_size):
                optimizer.param_groups[0]["lr"] = 0.5 * (1 + np.cos(np.pi * step / total)) * lr
                logits_BK = F.linear(train_ND[rows].float(), weight_KD, bias_K)
                optimizer.zero_grad()
                F.cross_entropy(logits_BK, label_N[rows]).backward()
                optimizer.step()
                step += 1
    return Linear(weight_KD.detach(), bias_K.detach())


def _loader_order(size: int, draws: torch.Generator) -> Tensor:
    """Return an epoch's order as a DataLoader draws it, which first draws a seed for workers."""
    _, seed = (int(torch.empty((), dtype=torch.int64).random_(generator=draws)) for _ in range(2))
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))
