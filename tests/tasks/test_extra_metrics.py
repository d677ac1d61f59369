"""Metrics of torchmetrics beside a task's own."""

from functools import partial

import pytest
import torch
from tasks import tiny
from torchmetrics.classification import FBetaScore
from torchmetrics.functional.classification import multiclass_fbeta_score
from torchmetrics.text import WordErrorRate

from mmlight.errors import UserError
from mmlight.saved.rebuild import rebuild
from mmlight.tasks.classification import Classification
from mmlight.tasks.evaluation import evaluate
from mmlight.tasks.tower import Towers

LABELS = torch.tensor([0, 1, 2, 0, 1, -1])


def f_beta(**changes):
    given = {"task": "multiclass", "num_classes": 3, "beta": 2.0} | changes
    return partial(FBetaScore, **given)


def classifier(**metrics):
    torch.manual_seed(0)
    towers = Towers(image=tiny.towers().image)
    task = Classification(towers=towers, num_classes=3, metrics=metrics)
    task.configure_model()
    return task


def test_it_is_scored_over_the_labelled_samples_of_the_whole_set():
    task = classifier(f_beta=f_beta())
    batch = tiny.batch(labels=LABELS)
    scores = evaluate(task, [batch])
    with torch.no_grad():
        logits_BK = task.eval().logits(batch)
    wanted = multiclass_fbeta_score(
        logits_BK[:5], LABELS[:5], beta=2.0, num_classes=3, average="micro"
    )
    assert scores["f_beta"] == pytest.approx(float(wanted))
    assert evaluate(task, [batch]) == scores  # nothing is left of the last time
    assert task.metrics.directions() == {"f_beta": "max"} and task.metrics.names == {"f_beta"}
    assert not [name for name in task.state_dict() if "f_beta" in name]


def test_settings_that_a_metric_does_not_take_are_one_line():
    with pytest.raises(UserError, match=r"model\.metrics\.x: .*num_klasses"):
        classifier(x=f_beta(num_klasses=3))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (WordErrorRate, "WordErrorRate does not take float32"),
        (f_beta(average="none"), "returns several numbers; average them"),
        (f_beta(num_classes=2), "does not take"),
    ],
)
def test_what_cannot_take_the_answers_is_refused_before_an_evaluation(settings, said):
    task = classifier(x=settings)
    with pytest.raises(UserError, match=said):
        task.begin_evaluation()


def test_a_task_without_answers_says_so():
    task = tiny.task(metrics={"f_beta": f_beta()})
    with pytest.raises(UserError, match="Contrastive has no predictions and targets"):
        task.begin_evaluation()


def test_a_checkpoint_keeps_no_metric_and_may_name_none():
    described = classifier(f_beta=f_beta()).rebuild_description()
    assert "metrics" not in described["init_args"]
    described["init_args"]["metrics"] = {"x": {"class_path": "torchmetrics.text.BERTScore"}}
    with pytest.raises(UserError, match="is not part of mmlight"):
        rebuild(described, base=Classification)
