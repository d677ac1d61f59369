"""Attention and feed-forward layers as they are written on paper, one number after another.

They are slow, and in float64: what the fast kernels of encoders and decoders are compared with.

Shapes: L places that ask, M places that are asked, d features of a head, D features of a place, E
inside of a feed-forward network; H heads.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def attention(
    query_Ld: Tensor,
    key_Md: Tensor,
    value_Md: Tensor,
    *,
    sees_LM: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return softmax(Q K^T / sqrt(d)) V of one head (L, d): arXiv 1706.03762, eq. 1.

    Args:
        query_Ld: what each place asks.
        key_Md: what each place answers to.
        value_Md: what it then says.
        sees_LM: bool, which places each one looks at; each sees one or more. None is all.
        scale: in place of 1 / sqrt(d).
    """
    query_Ld, key_Md, value_Md = query_Ld.double(), key_Md.double(), value_Md.double()
    scale = 1 / math.sqrt(query_Ld.shape[1]) if scale is None else scale
    found_Ld = torch.zeros(len(query_Ld), value_Md.shape[1], dtype=torch.float64)
    for place, query_d in enumerate(query_Ld):
        seen = [m for m in range(len(key_Md)) if sees_LM is None or bool(sees_LM[place, m])]
        scores = [float((query_d * key_Md[m]).sum()) * scale for m in seen]
        highest = max(scores)
        weights = [math.exp(score - highest) for score in scores]
        for m, weight in zip(seen, weights, strict=True):
            found_Ld[place] += weight / math.fsum(weights) * value_Md[m]
    return found_Ld


def several_heads(
    query_LD: Tensor,
    key_MD: Tensor,
    value_MD: Tensor,
    *,
    heads: int,
    sees_LM: Tensor | None = None,
) -> Tensor:
    """Return the heads' attention side by side (L, D): arXiv 1706.03762, section 3.2.2.

    Args:
        query_LD: of all heads, one head's features after another's.
        key_MD: likewise.
        value_MD: likewise.
        heads: H, by which the features are shared.
        sees_LM: as for `attention`.
    """
    parts = [rows.chunk(heads, 1) for rows in (query_LD, key_MD, value_MD)]
    return torch.cat([attention(*part, sees_LM=sees_LM) for part in zip(*parts, strict=True)], 1)


def feed_forward(
    hidden_LD: Tensor,
    first_DE: Tensor,
    first_E: Tensor,
    second_ED: Tensor,
    second_D: Tensor,
    *,
    activation: Callable[[float], float] = lambda x: max(0.0, x),
) -> Tensor:
    """Return max(0, x W1 + b1) W2 + b2 of each place (L, D): arXiv 1706.03762, eq. 2.

    Args:
        hidden_LD: x.
        first_DE: W1.
        first_E: b1.
        second_ED: W2.
        second_D: b2.
        activation: in place of max(0, x).
    """
    rows: list[Tensor] = []
    for hidden_D in hidden_LD.double():
        inside = [
            activation(float((hidden_D * first_DE[:, e].double()).sum() + first_E[e].double()))
            for e in range(first_DE.shape[1])
        ]
        inside_E = torch.tensor(inside, dtype=torch.float64)
        rows.append((inside_E[:, None] * second_ED.double()).sum(0) + second_D.double())
    return torch.stack(rows)


def gelu(x: float) -> float:
    """Return x times the share of a normal distribution below x: arXiv 1606.08415."""
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))
