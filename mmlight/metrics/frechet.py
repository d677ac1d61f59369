"""The Frechet distance of two sets of features.

Shapes: N and M samples, D features.
"""

import torch
from torch import Tensor

from mmlight.errors import UserError


def frechet_distance(first_ND: Tensor, second_MD: Tensor) -> float:
    """Return the squared Frechet distance of the normal distributions of two sets.

    ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` with unbiased covariances (arXiv 1706.08500, eq.
    6), in float64. It falls with the number of samples: compare only what has as many.

    Args:
        first_ND: features of one set.
        second_MD: of the other.

    Raises:
        UserError: fewer than two samples of a set.
    """
    if min(len(first_ND), len(second_MD)) < 2:
        raise UserError("a Frechet distance needs two samples or more of each set")
    (mean_D, cov_DD), (other_mean_D, other_cov_DD) = _moments(first_ND), _moments(second_MD)
    # The product's eigenvalues are those of a symmetric, non-negative matrix: rounding apart.
    root = torch.linalg.eigvals(cov_DD @ other_cov_DD).real.clamp(min=0).sqrt().sum()
    apart = (mean_D - other_mean_D).square().sum()
    found = float(apart + cov_DD.trace() + other_cov_DD.trace() - 2 * root)
    return max(found, 0.0)


def _moments(feature_ND: Tensor) -> tuple[Tensor, Tensor]:
    precise_ND = feature_ND.double()
    mean_D = precise_ND.mean(0)
    off_ND = precise_ND - mean_D
    return mean_D, off_ND.T @ off_ND / (len(off_ND) - 1)
