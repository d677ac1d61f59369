"""Zero-shot classifiers and their scores, against scikit-learn."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from mmlight.errors import UserError
from mmlight.metrics.zero_shot import (
    AUDIO_TEMPLATES,
    IMAGE_TEMPLATES,
    PLAIN_TEMPLATES,
    SPEECH_TEMPLATES,
    ZeroShotCounts,
    check_templates,
    classifier_weights,
)


def score(features, weights, labels):
    counts = ZeroShotCounts(len(weights))
    counts.update(features, weights, labels)
    return counts.compute()


def embed(sentences):
    """Embed by counting letters: deterministic, and different for every sentence."""
    return torch.tensor([[1.0 + s.count(c) for c in "abcdefghijklmnop{}"] for s in sentences])


@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_weights_are_normalised_means_of_normalised_prompts(batch_size):
    templates = ["a photo of a {}.", "{}", "{} and {}"]
    names = ["cat", "dog {x}", "big cat"]
    weights = classifier_weights(embed, names, templates, batch_size=batch_size)
    for name, weight in zip(names, weights, strict=True):
        prompts = [f"a photo of a {name}.", name, f"{name} and {name}"]
        mean = F.normalize(embed(prompts), dim=-1).mean(0)
        torch.testing.assert_close(weight, mean / mean.norm())


def test_scores_equal_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    weights = F.normalize(torch.randn(8, 16, generator=generator), dim=-1)
    labels = torch.randint(0, 7, (300,), generator=generator)  # class 7 never occurs
    labels[labels == 3] = 2  # neither does 3
    features = weights[labels] * 2 + 0.8 * torch.randn(300, 16, generator=generator)
    similarity = (features @ weights.T).numpy()
    scores = score(features, weights, labels)
    assert scores["accuracy_at_1"] == pytest.approx((similarity.argmax(1) == labels.numpy()).mean())
    assert scores["accuracy_at_5"] == pytest.approx(
        top_k_accuracy_score(labels, similarity, k=5, labels=np.arange(8))
    )
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = balanced_accuracy_score(labels, similarity.argmax(1))
    assert scores["mean_per_class_recall"] == pytest.approx(expected)
    assert 0.2 < scores["accuracy_at_1"] < scores["accuracy_at_5"] < 1

    counts = ZeroShotCounts(8)
    for rows in torch.arange(300).split(70):
        counts.update(features[rows], weights, labels[rows])
    assert counts.compute() == scores


def test_samples_without_a_label_are_left_out():
    eye = torch.eye(3)
    scores = score(eye, eye, torch.tensor([0, -1, 1]))
    assert scores == {"accuracy_at_1": 0.5, "mean_per_class_recall": 0.5}
    assert score(eye, eye, torch.full((3,), -1)) == {}


def test_features_that_say_nothing_score_nothing():
    labels = torch.zeros(4, dtype=torch.int64)
    for value in (1.0, torch.nan):
        scores = score(torch.full((4, 3), value), torch.ones(9, 3), labels)
        assert scores["accuracy_at_1"] == scores["accuracy_at_5"] == 0


def test_a_class_file_shorter_than_the_labels_is_refused():
    with pytest.raises(UserError, match=r"there are 2, but a sample has label 4.*at least 5"):
        score(torch.eye(2), torch.eye(2), torch.tensor([0, 4]))


def test_classes_of_one_name_have_equal_prompts_and_tie():
    seen = []

    def noisy(sentences):  # as packed texts are, which differ by their neighbours
        seen.extend(sentences)
        return torch.stack([embed([s])[0] for s in sentences]) + 1e-3 * torch.rand(
            len(sentences), 1
        )

    weights = classifier_weights(noisy, ["cat", "dog", "cat"], ["a {}"])
    assert seen == ["a cat", "a dog"]
    assert weights[0].equal(weights[2]) and not weights[0].equal(weights[1])
    scores = score(weights, weights, torch.arange(3))
    assert scores["accuracy_at_1"] == pytest.approx(1 / 3)


def test_mistakes_in_names_and_templates_are_named():
    with pytest.raises(UserError, match=r"'a photo' has no \{\}"):
        classifier_weights(embed, ["cat"], ["{}", "a photo"])
    with pytest.raises(UserError, match="list of sentences"):
        check_templates("a {}")
    with pytest.raises(UserError, match="list of sentences"):
        check_templates([])
    with pytest.raises(UserError, match="there are none"):
        classifier_weights(embed, [])


def test_built_in_templates_are_templates():
    for templates in (PLAIN_TEMPLATES, IMAGE_TEMPLATES, AUDIO_TEMPLATES, SPEECH_TEMPLATES):
        assert check_templates(templates) == list(templates)
        assert len(set(templates)) == len(templates)
