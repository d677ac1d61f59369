import numpy as np
import torch

from mmlight.encoders.canvas import TokenGrid
from mmlight.insight.attention import Attention, last_attention, pooled_by_head, rollout


def random_attention(*, num_layers=3, heads=2, length=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    layers = tuple(
        torch.rand(2, heads, length, length, generator=g).softmax(-1) for _ in range(num_layers)
    )
    pooling = torch.rand(2, length, generator=g)
    grid = TokenGrid(1, 2, 2)
    return Attention(layers, pooling / pooling.sum(1, keepdim=True), grid)


def slow_rollout(attention, row):
    """Section 3 of the paper, token by token in float64."""
    length = attention.pooling_BL.shape[1]
    flow = np.eye(length)
    for layer in attention.layers:
        weights = layer[row].double().numpy()
        mean = sum(weights[h] for h in range(len(weights))) / len(weights)
        new = np.zeros_like(flow)
        for i in range(length):
            mixed = [0.5 * mean[i, k] + 0.5 * (i == k) for k in range(length)]
            for j in range(length):
                new[i, j] = sum(mixed[k] / sum(mixed) * flow[k, j] for k in range(length))
        flow = new
    pooling = attention.pooling_BL[row].double().numpy()
    return np.array([sum(pooling[i] * flow[i, j] for i in range(length)) for j in range(length)])


def test_rollout_is_that_of_the_paper():
    attention = random_attention()
    found = rollout(attention)
    for row in range(2):
        np.testing.assert_allclose(found[row].numpy(), slow_rollout(attention, row), atol=1e-6)
    torch.testing.assert_close(found.sum(1), torch.ones(2))


def test_without_attention_to_others_rollout_is_the_pooling():
    eye = torch.eye(5).expand(2, 2, 5, 5)
    attention = random_attention()
    alone = Attention((eye, eye), attention.pooling_BL, attention.grid)
    torch.testing.assert_close(rollout(alone), attention.pooling_BL)


def test_last_attention_is_the_mean_of_its_heads():
    attention = random_attention()
    by_head = pooled_by_head(attention)
    assert by_head.shape == (3, 2, 2, 5)
    torch.testing.assert_close(by_head[-1].mean(1), last_attention(attention))
