"""Retrieval scores against slow loops, scikit-learn and torchmetrics."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsClassifier
from torchmetrics.functional.retrieval import retrieval_hit_rate

from mmlight.metrics.recall import class_scores, retrieval
from mmlight.metrics.retrieved import RetrievalEvaluation, score_pairs


def captions_and_images(seed=0, *, num_items=40, dim=6):
    """Return features of items with 1 to 5 captions each, that resemble their image a little."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(num_items, dim, generator=generator)
    item_N = torch.arange(num_items).repeat_interleave(torch.arange(num_items) % 5 + 1)
    text = image[item_N] + 0.8 * torch.randn(len(item_N), dim, generator=generator)
    order = torch.randperm(len(item_N), generator=generator)
    return image * 3, torch.arange(num_items), text[order], item_N[order]


def unit(x):
    return x.double() / x.double().norm(dim=-1, keepdim=True)


def slow_ranks(query, gallery, query_item, gallery_item):
    ranks = []
    for q, item in zip(unit(query), query_item, strict=True):
        similarity = unit(gallery) @ q
        order = np.argsort(-similarity.numpy(), kind="stable")
        ranks.append(1 + next(i for i, row in enumerate(order) if gallery_item[row] == item))
    return np.array(ranks)


@pytest.mark.parametrize("chunk", [1, 7, 1024])
@pytest.mark.parametrize("direction", ["text_to_image", "image_to_text"])
def test_scores_equal_a_slow_ranking(chunk, direction):
    image, image_item, text, text_item = captions_and_images()
    sides = (text, image, text_item, image_item)
    if direction == "image_to_text":
        sides = (image, text, image_item, text_item)
    scores = retrieval(*sides, ks=(1, 2, 5, 10), chunk=chunk)
    ranks = slow_ranks(*sides)
    for k in (1, 2, 5, 10):
        assert scores[f"recall_at_{k}"] == pytest.approx((ranks <= k).mean(), abs=1e-12)
    assert 0.1 < scores["recall_at_1"] < scores["recall_at_10"] < 1
    assert scores["median_rank"] == np.median(ranks)


def test_several_captions_agree_with_torchmetrics():
    image, image_item, text, text_item = captions_and_images(1)
    scores = retrieval(image, text, image_item, text_item)
    similarity = unit(image) @ unit(text).T
    relevant = image_item[:, None] == text_item[None, :]
    rows = list(zip(similarity, relevant, strict=True))
    for k in (1, 5, 10):
        hits = [retrieval_hit_rate(s, r, top_k=k).item() for s, r in rows]
        assert scores[f"recall_at_{k}"] == pytest.approx(np.mean(hits))


def test_features_that_are_all_alike_score_chance():
    _, image_item, text, text_item = captions_and_images()
    gallery = torch.ones(len(text), 6)
    scores = retrieval(torch.ones(40, 6), gallery, image_item, text_item)
    share = torch.bincount(text_item).double() / len(text)
    assert scores["recall_at_1"] == pytest.approx(share.mean().item())
    assert scores["chance_recall_at_1"] == pytest.approx(share.mean().item())
    generator = np.random.default_rng(0)
    found = []
    for item in range(40):
        for _ in range(500):
            drawn = generator.permuted(text_item.numpy())[:5]
            found.append(item in drawn)
    assert scores["recall_at_5"] == pytest.approx(np.mean(found), abs=0.01)


def test_equal_captions_of_different_items_share_the_hit():
    eye = torch.eye(3)
    gallery = eye[[0, 0, 1, 2]]
    scores = retrieval(eye, gallery, torch.tensor([0, 2, 3]), torch.tensor([0, 1, 2, 3]), ks=(1, 2))
    assert scores["recall_at_1"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert scores["recall_at_2"] == 1
    assert scores["median_rank"] == 1


def test_chance_is_what_random_features_score():
    generator = torch.Generator().manual_seed(3)
    scores = [
        retrieval(
            torch.randn(400, 32, generator=generator),
            torch.randn(400, 32, generator=generator),
            torch.arange(400) // 8,
            torch.arange(400) // 8,
        )
        for _ in range(10)
    ]
    assert scores[0]["chance_recall_at_1"] == pytest.approx(8 / 400)
    assert np.mean([s["recall_at_1"] for s in scores]) == pytest.approx(8 / 400, rel=0.3)


def test_diverged_features_do_not_score():
    item = torch.arange(100)
    gallery = torch.randn(100, 4)
    broken = torch.full((100, 4), torch.nan)
    for scores in (retrieval(broken, gallery, item, item), retrieval(gallery, broken, item, item)):
        assert [scores[f"recall_at_{k}"] for k in (1, 5, 10)] == [0, 0, 0]
    zeros = torch.zeros(100, dtype=torch.int64)
    assert class_scores(broken, gallery, zeros, zeros) == {"precision_at_1": 0, "class_map": 0}


def test_queries_without_a_partner_are_not_counted():
    eye = np.eye(4, dtype=np.float32)
    items = {"image": np.arange(4), "audio": np.arange(2), "text": np.array([7])}
    features = {name: eye[: len(rows)] for name, rows in items.items()}
    keys = [str(n) for n in range(8)]
    labels = np.array([0, 1, 1, 0, 0, 0, 0, 0])
    whole = RetrievalEvaluation("val", np.arange(8), keys, features, items, ["a"], labels)
    scores = score_pairs(whole, device=torch.device("cpu"))
    assert {name.partition("/")[0] for name in scores} == {"image_to_audio", "audio_to_image"}
    assert scores["image_to_audio/recall_at_1"] == scores["image_to_audio/class_map"] == 1
    some = RetrievalEvaluation("val", np.arange(8), keys, features, items, ["a"], labels - 1)
    assert "image_to_audio/class_map" not in score_pairs(some, device=torch.device("cpu"))


def test_precision_by_class_agrees_with_scikit_learn():
    generator = torch.Generator().manual_seed(5)
    centre = torch.randn(4, 6, generator=generator)
    query_label = torch.randint(0, 4, (60,), generator=generator)
    gallery_label = torch.randint(0, 4, (80,), generator=generator)
    query = centre[query_label] + 1.2 * torch.randn(60, 6, generator=generator)
    gallery = centre[gallery_label] + 1.2 * torch.randn(80, 6, generator=generator)
    nearest = KNeighborsClassifier(1, metric="cosine").fit(gallery.numpy(), gallery_label.numpy())
    expected = nearest.score(query.numpy(), query_label.numpy())
    for chunk in (7, 1024):
        got = class_scores(query, gallery, query_label, gallery_label, chunk=chunk)
        assert got["precision_at_1"] == pytest.approx(expected)
    assert 0.3 < expected < 1


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_by_class_agrees_with_scikit_learn(ties):
    generator = torch.Generator().manual_seed(6)
    query = torch.randn(30, 4, generator=generator)
    gallery = torch.randn(40, 4, generator=generator)
    if ties:  # of length 2: every product is exact
        query, gallery = query.sign(), gallery.sign()
    query_label = torch.randint(0, 3, (30,), generator=generator)
    gallery_label = torch.randint(0, 3, (40,), generator=generator)
    similarity = (F.normalize(query, dim=-1) @ F.normalize(gallery, dim=-1).T).numpy()
    expected = [
        average_precision_score(gallery_label.numpy() == label, row)
        for row, label in zip(similarity, query_label.tolist(), strict=True)
    ]
    for chunk in (7, 1024):
        got = class_scores(query, gallery, query_label, gallery_label, chunk=chunk)
        assert got["class_map"] == pytest.approx(np.mean(expected))


def test_ties_share_the_first_place():
    eye = torch.eye(3)
    scores = class_scores(eye[:2], eye[[0, 0, 1]], torch.tensor([0, 1]), torch.tensor([0, 1, 1]))
    assert scores["precision_at_1"] == 0.75
