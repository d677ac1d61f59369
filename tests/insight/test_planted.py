"""Each method on models whose answer is known to rest on one patch, token or piece of sound."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import ENCODERS, make_batch, single, train

from mmlight.encoders.encoder import eval_mode
from mmlight.insight.blank import blank_canvas
from mmlight.insight.explain import explain
from mmlight.insight.faithfulness import deletion_and_insertion, random_curves
from mmlight.insight.samples import Explained, metrics_of
from mmlight.insight.settings import METHODS, ExplainSettings
from mmlight.insight.subject import Subject
from mmlight.insight.units import Tokens, units_of
from mmlight.tasks.classification import Classification
from mmlight.tasks.tower import Towers, TowerSettings

TOKENS = Tokens(["", *["w"] * 10, ""], 0)

QUICK = dict(gradient_steps=32, curve_steps=4, random_orders=1)


def explained(name, *, most_steps=1024):
    """Explain six samples of class 1; return where each method looks and the metrics."""
    task, batch = train(name)
    modality = ENCODERS[name][0]
    samples, hits = [], {}
    for row in batch.label_B.nonzero()[:6, 0].tolist():
        one = single(batch, row)
        subject = Subject(task, one, modality, task.class_question(1))
        tokens = TOKENS if modality == "text" else None
        explanation = explain(subject, ExplainSettings(gradient_steps=most_steps), tokens=tokens)
        samples.append(Explained(row, one.keys[0], "", explanation))
        for found in explanation.attributions:
            best = np.unravel_index(np.nanargmax(found.map_RK), found.map_RK.shape)
            hits.setdefault(found.method, []).append(is_there(best, one.fields["where"][0]))
    return hits, metrics_of(samples)


def is_there(best, where):
    if isinstance(where, int):  # a token
        return best[1] == where
    if isinstance(where[0], float):  # a sound: 10 ms a frame, the cells are 25 ms wide
        return where[0] - 0.04 <= best[1] * 0.01 <= where[0] + 0.09
    return (best[0] // 4, best[1] // 4) == where  # a square of 4 x 4 pixels


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("vit", ["rollout", "grad_cam", "integrated_gradients"]),
        ("bert", ["attention", "rollout", "integrated_gradients"]),
        pytest.param("cnn", ["integrated_gradients"], marks=pytest.mark.slow),
        pytest.param("mel-cnn", ["grad_cam", "integrated_gradients"], marks=pytest.mark.slow),
    ],
)
def test_the_clue_is_found_and_its_loss_is_felt(name, methods):
    hits, metrics = explained(name)
    for method in methods:
        assert np.mean(hits[method]) > 0.8, method
        assert metrics[f"{method}_deletion_auc"] < metrics["random_deletion_auc"] - 0.1, method
        assert metrics[f"{method}_insertion_auc"] > metrics["random_insertion_auc"], method
    assert metrics["integrated_gradients_gap"] < 0.02


def test_curves_are_those_of_edited_images():
    """Deletion and insertion by hand: patches of the uint8 image blackened one by one."""
    task, batch = train("vit", num_steps=20)
    one = single(batch, 1)
    subject = Subject(task, one, "image", task.class_question(1), batch_size=5)
    units = units_of(subject.encoder, subject.canvas, tokens=None)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    blank = blank_canvas(subject, image_blank="black")
    curves = deletion_and_insertion(subject, units, order, blank, num_steps=16)
    pixels = one.image.pixels_BCHW
    for kind, base, put in (
        ("deletion_N", pixels, torch.zeros_like(pixels)),
        ("insertion_N", torch.zeros_like(pixels), pixels),
    ):
        edited, expected = base.clone(), []
        for unit in [None, *order.tolist()]:
            if unit is not None:
                box = (
                    ...,
                    slice(unit // 4 * 4, unit // 4 * 4 + 4),
                    slice(unit % 4 * 4, unit % 4 * 4 + 4),
                )
                edited[box] = put[box]
            image = replace(one.image, pixels_BCHW=edited)
            with torch.no_grad():
                logits = task.logits(replace(one, image=image))
            expected.append(float(logits.softmax(1)[0, 1]))
        np.testing.assert_allclose(getattr(curves, kind), expected, atol=1e-6)
    assert curves.fraction_N.tolist() == [n / 16 for n in range(17)]
    assert curves.deletion_auc == pytest.approx(
        sum((a + b) / 2 for a, b in zip(curves.deletion_N, curves.deletion_N[1:], strict=False))
        / 16
    )


def test_random_orders_repeat_and_differ_by_seed():
    task, batch = train("vit", num_steps=5)
    subject = Subject(task, single(batch, 1), "image", task.class_question(1))
    units = units_of(subject.encoder, subject.canvas, tokens=None)
    blank = blank_canvas(subject)
    first, again, other = (
        random_curves(subject, units, blank, num_orders=2, seed=seed, num_steps=8)
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.deletion_N, again.deletion_N)
    assert not np.array_equal(first.deletion_N, other.deletion_N)


def test_training_goes_on_as_if_nothing_had_been():
    """Two steps, all methods, two steps more: bit for bit the weights of four steps."""
    states = []
    for explains in (False, True):
        modality, encoder = ENCODERS["bert"]
        torch.manual_seed(0)
        task = Classification(towers=Towers(text=TowerSettings(encoder)), num_classes=2)
        task.configure_model()
        optimizer = torch.optim.AdamW(task.parameters(), lr=1e-3)
        for step in range(4):
            batch = make_batch(modality, size=8, seed=step)
            if explains and step == 2:
                with torch.inference_mode(), torch.inference_mode(False), eval_mode(task):
                    subject = Subject(task, batch, modality, task.class_question(1))
                    explain(subject, ExplainSettings(METHODS, **QUICK), tokens=TOKENS)
            torch.manual_seed(step)  # of dropout
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(task.logits(batch), batch.label_B).backward()
            optimizer.step()
        states.append(task.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
