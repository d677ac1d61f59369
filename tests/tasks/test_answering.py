"""Answers by classification: several questions to an image, people's answers, types."""

from dataclasses import replace

import pytest
import torch
from tasks import question_data, tiny

from mmlight.errors import UserError
from mmlight.tasks.answering import Answering, questions_of
from mmlight.tasks.evaluation import evaluate
from mmlight.tasks.tower import Towers


@pytest.mark.parametrize("names", [("image",), ("audio",), ("image", "audio")])
def test_questions_about_one_sample_are_answered_as_if_they_came_alone(names):
    task = question_data.answering(*names).eval()
    together = question_data.batch(2, per_sample=2)
    logits_NK = task.logits(together)
    for row in range(4):
        of_row = torch.tensor([row // 2])
        alone = replace(
            together.map(lambda t: t),
            index_B=together.index_B[of_row],
            keys=[together.keys[row // 2]],
            valid_B=together.valid_B[of_row],
            image=together.image.map(lambda t, of=of_row: t[of]),
            audio=together.audio.map(lambda t, of=of_row: t[of]),
            text=question_data.text([together.captions[row]]),
        )
        torch.testing.assert_close(task.logits(alone)[0], logits_NK[row], rtol=1e-4, atol=1e-5)


def test_training_learns_the_answers_of_a_batch():
    torch.manual_seed(0)
    task = question_data.answering("image")
    batch = question_data.batch(3, per_sample=2)
    optimizer = torch.optim.Adam(task.parameters(), lr=0.005)
    first = None
    for _ in range(60):
        loss = task.training_step(batch, 0)
        first = first or float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.7 * first
    task.eval()
    rows = task.predict_step(batch, 0)
    assert {row["answer"] for row in rows} <= set(question_data.ANSWERS)
    assert [row["question"] for row in rows] == [batch.captions[n] for n in (0, 2, 4)]


def test_scores_are_by_type_and_unlisted_answers_are_wrong():
    task = question_data.answering("image")
    batch = question_data.batch(3, answers=["red", "mauve", "red"], types=["colour", "colour", "x"])
    assert task.labels(batch).tolist() == [0, -1, 0]
    with torch.no_grad():
        for parameter in task.head.parameters():
            parameter.zero_()
        task.head.state_dict()[next(k for k in task.head.state_dict() if k.endswith("bias"))][0] = 5
    scores = evaluate(task, [batch])
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["colour/accuracy"] == 0.5 and scores["x/accuracy"] == 1
    assert "vqa_accuracy" not in scores


def test_several_people_answer_one_question():
    batch = question_data.batch(
        2, answers=["red", "red", "blue", "two", "2"], answer_items=[0, 0, 0, 1, 1]
    )
    assert questions_of(batch).answers == [["red", "red", "blue"], ["two", "2"]]
    task = question_data.answering("image")
    assert task.labels(batch).tolist() == [0, 2]
    assert "vqa_accuracy" in evaluate(task, [batch])


def test_several_questions_need_an_answer_each():
    batch = question_data.batch(2, per_sample=2, answers=["red"] * 3, answer_items=[0, 0, 1])
    with pytest.raises(UserError, match=r"data.members.paired_answers"):
        questions_of(batch)


def test_mistakes_are_one_line():
    image = tiny.towers().image
    with pytest.raises(UserError, match=r"names image; answering takes text"):
        Answering(towers=Towers(image=image))
    task = question_data.answering("image")
    batch = question_data.batch(2)
    with pytest.raises(UserError, match=r"data.members.answer"):
        task.labels(replace(batch, answer=None))
    with pytest.raises(UserError, match=r"data.members.text"):
        questions_of(replace(batch, text=None))
    unnamed = Answering(towers=task.tower_settings)
    unnamed.preprocessing = question_data.preprocessing() | {"class_names": []}
    with pytest.raises(UserError, match=r"data.class_names is not set"):
        unnamed.configure_model()
