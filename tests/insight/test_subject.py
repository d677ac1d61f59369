import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
import tiny

from mmlight.insight.subject import Subject, repeat
from mmlight.tasks.classification import Classification


def classifier():
    torch.manual_seed(0)
    task = Classification(towers=tiny.towers(), num_classes=3)
    task.configure_model()
    return task.eval()


@pytest.mark.parametrize("modality", ["image", "text", "audio"])
def test_the_sample_as_it_is_scores_as_in_its_batch(modality):
    task, batch = classifier(), tiny.batch(3, captions=2)
    subject = Subject(task, batch, modality, task.class_question(2))
    values = subject.canvas.values
    with torch.no_grad():
        logits = task.logits(repeat(batch, 1))
        scores = subject.score(torch.cat([values, values * 0, values]))
        torch.testing.assert_close(scores[[0, 2]], logits[0, 2].expand(2))
        assert not torch.allclose(scores[1], scores[0])
        chances = subject.confidence(torch.cat([values] * 3))
        torch.testing.assert_close(chances, logits.softmax(1)[0, 2].expand(3))


def test_a_pair_scores_its_cosine():
    task, batch = tiny.task().eval(), tiny.batch(3)
    assert task.partner("image") == "text" and task.partner("text") == "image"
    subject = Subject(task, batch, "image", task.pair_question("image", "text"))
    with torch.no_grad():
        image, text = (task.encode(m, getattr(batch, m))[0] for m in ("image", "text"))
        torch.testing.assert_close(subject.score(subject.canvas.values)[0], image @ text)


def test_copies_take_the_first_caption():
    batch = tiny.batch(2, captions=3)
    copies = repeat(batch, 4)
    length = int(batch.text.mask_NL[0].sum())
    assert copies.size == 4 and copies.text.token_ids_NL.shape == (4, length)
    assert torch.equal(copies.text.token_ids_NL[3], batch.text.token_ids_NL[0, :length])
    assert copies.captions == ["caption 0"] * 4 and copies.keys == ["00000/0"] * 4
