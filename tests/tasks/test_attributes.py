"""Several attributes of a sample at once."""

from dataclasses import replace

import pytest
import torch
from tasks import tiny

from mmlight.errors import UserError
from mmlight.tasks.attributes import Attributes
from mmlight.tasks.evaluation import evaluate
from mmlight.tasks.tower import Towers

NAMES = ["colour", "shape"]
VALUES = {"colour": ["blue", "red"], "shape": ["disc", "ring", "star"]}


def attributes(**settings):
    torch.manual_seed(0)
    given = {"target": "what", "names": NAMES, "values": VALUES} | settings
    task = Attributes(towers=Towers(image=tiny.towers().image), **given)
    task.configure_model()
    return task.eval()


def batch(values):
    return replace(tiny.batch(len(values)), fields={"what": values})


def test_scores_are_of_each_attribute_and_of_all():
    task = attributes()
    given = batch(["red star", ["blue", "disc"], None, "red unheard"])
    scores = evaluate(task, [given])
    rows = task.predict_step(given, 0)
    said = [tuple(rows[i]["values"].values()) for i in (0, 1, 3)]
    right = [("red", "star"), ("blue", "disc"), ("red", "unheard")]
    for place, name in enumerate(NAMES):
        share = sum(a[place] == b[place] for a, b in zip(said, right, strict=True)) / 3
        assert scores[f"{name}/accuracy"] == pytest.approx(share)
    assert scores["accuracy"] == sum(a == b for a, b in zip(said, right, strict=True)) / 3
    assert set(scores) == task.score_names()


def test_the_loss_is_the_sum_over_attributes():
    task = attributes()
    given = batch(["red star", "blue ring"])
    logits = task.attribute_logits(given)
    expected = sum(
        torch.nn.functional.cross_entropy(own.double(), torch.tensor(numbers))
        for own, numbers in zip(logits, ([1, 0], [2, 1]), strict=True)
    )
    task.log_gated = lambda values: None
    assert float(task.training_step(given, 0)) == pytest.approx(float(expected), rel=1e-6)


def test_values_are_those_of_training_and_stay_in_the_checkpoint():
    class Data:
        def field_values(self, split, field, *, most):
            assert (split, field) == ("train", "what")
            return iter(["red star", "blue ring", ["red", "disc"]])

    task = Attributes(towers=Towers(image=tiny.towers().image), target="what", names=NAMES)
    task.data = Data()
    task.configure_model()
    assert task.values == VALUES
    assert task.rebuild_description()["init_args"]["values"] == VALUES


@pytest.mark.parametrize(
    ("settings", "values", "said"),
    [
        ({"names": []}, [], "model.names"),
        ({"values": {"shape": ["a", "b"]}}, [], "model.values: names shape"),
        ({"values": VALUES | {"shape": ["ring"]}}, [], "two or more different values"),
        ({"values": None}, [], "no training data to see them in"),
        ({"target": "where"}, ["red star"], "no field 'where'"),
        ({}, ["red"], "is no list of 2 values"),
        ({}, [7], "is no list of 2 values"),
    ],
)
def test_mistakes_are_one_line(settings, values, said):
    with pytest.raises(UserError, match=said) as refused:
        attributes(**settings).known_targets(batch(values))
    assert "\n" not in str(refused.value)
