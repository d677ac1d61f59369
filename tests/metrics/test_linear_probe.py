"""The linear probes against scikit-learn's, and against CLIP_benchmark's recipe in plain torch."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.utils.data import DataLoader, TensorDataset

from mmlight.metrics.linear_probe import fit_adamw, fit_lbfgs, search_peak


def _blobs(size, *, seed=0):
    draws = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 4, (size,), generator=draws)
    centre = torch.randn(4, 6, generator=torch.Generator().manual_seed(9))
    return centre[label] + 1.5 * torch.randn(size, 6, generator=draws), label


@pytest.mark.parametrize("inverse_l2", [1e-3, 1.0, 100.0])
def test_lbfgs_finds_the_optimum_of_scikit_learn(inverse_l2):
    feature, label = _blobs(300)
    ours = fit_lbfgs(feature, label, num_classes=4, inverse_l2=inverse_l2, tolerance=1e-6)
    theirs = LogisticRegression(C=inverse_l2, max_iter=1000, tol=1e-6).fit(feature, label)
    query, _ = _blobs(100, seed=1)
    wanted = theirs.predict_log_proba(query)
    found = ours(query).log_softmax(1).numpy()
    assert np.abs(found - wanted).max() < 5e-3


def test_adamw_is_the_probe_that_a_loader_and_a_layer_give():
    feature, label = _blobs(150)
    torch.manual_seed(3)
    layer = torch.nn.Linear(6, 4)
    loader = DataLoader(TensorDataset(feature, label), batch_size=32, shuffle=True)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.05)
    step, total = 0, 3 * len(loader)
    for _ in range(3):
        for x, y in loader:
            optimizer.param_groups[0]["lr"] = 0.05 * (1 + np.cos(np.pi * step / total))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(x), y).backward()
            optimizer.step()
            step += 1
    ours = fit_adamw(
        feature, label, num_classes=4, weight_decay=0.05, epochs=3, batch_size=32, seed=3
    )
    assert torch.allclose(ours.weight_KD, layer.weight, atol=1e-6)
    assert torch.allclose(ours.bias_K, layer.bias, atol=1e-6)


@pytest.mark.parametrize("best", [0, 1, 37, 63, 96])
def test_the_search_finds_the_peak_of_a_curve_with_one(best):
    asked = []

    def score(place):
        asked.append(place)
        return -abs(place - best)

    assert search_peak(score, size=97) == best
    assert len(asked) == len(set(asked)) <= 7 + 8
