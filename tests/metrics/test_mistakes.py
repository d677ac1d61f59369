import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmlight.metrics.labelled import LabelledEvaluation
from mmlight.metrics.mistakes import find_mistakes


def evaluation(logits, **labels):
    logits = np.array(logits, np.float32)
    size = len(logits)
    return LabelledEvaluation(
        stage="test",
        samples_S=np.arange(size) * 10,
        keys=[f"s/{n}" for n in range(size)],
        logits_SK=logits,
        class_names=["cat", "dog", "owl"],
        **{k: np.array(v) for k, v in labels.items()},
    )


LOGITS = [[4, 0, 0], [0, 3, 0], [0, 2.5, 2.4], [1, 0, 0], [6, 1, -4], [0, 0, 1]]
LABELS = [0, 2, 2, 1, 1, -1]  # right, wrong, nearly, unsure, surest and wrong, unlabelled


def test_mistakes_are_ranked_by_loss_and_by_confidence():
    found = find_mistakes(evaluation(LOGITS, labels_S=LABELS), most=2)
    assert (found.num_wrong, found.num_labelled) == (4, 5)
    assert [m.number for m in found.shown] == [40, 10]
    all_of_them = find_mistakes(evaluation(LOGITS, labels_S=LABELS), most=9).shown
    losses = F.cross_entropy(
        torch.tensor(LOGITS[:5], dtype=torch.float64), torch.tensor(LABELS[:5]), reduction="none"
    )
    by_number = {m.number: m for m in all_of_them}
    assert set(by_number) == {10, 20, 30, 40}
    for number, mistake in by_number.items():
        row = number // 10
        chance = torch.tensor(LOGITS[row], dtype=torch.float64).softmax(0)
        assert mistake.loss == pytest.approx(float(losses[row]), abs=1e-6)
        assert mistake.confidence == pytest.approx(float(chance.max()), abs=1e-6)
        assert mistake.label_probability == pytest.approx(float(chance[LABELS[row]]), abs=1e-6)
        assert mistake.label == ["cat", "dog", "owl"][LABELS[row]]
    assert [m.loss_rank for m in all_of_them] == [1, 2, 3, 4]
    assert sorted(m.confidence_rank for m in all_of_them) == [1, 2, 3, 4]
    assert by_number[40].confidence_rank == 1 and by_number[40].prediction == "cat"


def test_a_list_of_each_kind_is_joined():
    logits = [[0, 0.1, -9], [3, 0, 2.9]]  # the first has the higher loss, the second is surer
    found = find_mistakes(evaluation(logits, labels_S=[2, 2]), most=1)
    assert [(m.number, m.loss_rank, m.confidence_rank) for m in found.shown] == [
        (0, 1, 1),
        (10, 2, 2),
    ][:1]
    logits = [[2, 1.9, -3], [4, 0, 1]]
    found = find_mistakes(evaluation(logits, labels_S=[2, 2]), most=1)
    assert [(m.number, m.loss_rank, m.confidence_rank) for m in found.shown] == [
        (0, 1, 2),
        (10, 2, 1),
    ]


def test_what_is_not_finite_is_the_worst():
    found = find_mistakes(evaluation([[np.nan, 0, 0], [0, 5, 0]], labels_S=[0, 0]), most=5)
    assert [m.number for m in found.shown] == [0, 10]
    assert found.shown[0].loss == float("inf") and found.shown[0].prediction == "not finite"


def test_several_labels():
    logits = [[3, -3, -3], [3, 2, -3], [-1, -1, -1]]
    targets = [[1, 0, 0], [1, 0, 1], [0, 0, 0]]
    found = find_mistakes(evaluation(logits, targets_SK=targets), most=5)
    assert (found.num_wrong, found.num_labelled) == (1, 3)
    (mistake,) = found.shown
    assert (mistake.label, mistake.prediction) == ("cat, owl", "cat, dog")
    loss = F.binary_cross_entropy_with_logits(
        torch.tensor(logits[1]).double(), torch.tensor(targets[1]).double()
    )
    assert mistake.loss == pytest.approx(float(loss))
    assert mistake.confidence == pytest.approx(float(1 - torch.tensor(-3.0).sigmoid()))


def test_nothing_wrong():
    assert find_mistakes(evaluation([[4, 0, 0]], labels_S=[0]), most=3).shown == []
