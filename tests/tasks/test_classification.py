"""Classification of one and of several modalities."""

from dataclasses import replace
from functools import partial

import lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tasks import tiny
from torch import nn
from torch.utils.data import DataLoader

from mmlight.errors import UserError
from mmlight.heads.fusion import LateFusion, TransformerFusion
from mmlight.heads.pooled import PooledHeadSettings
from mmlight.objectives.labels import BinaryCrossEntropy
from mmlight.tasks.classification import Classification
from mmlight.tasks.load import load_task
from mmlight.tasks.mixing import Mixing
from mmlight.tasks.tower import Towers
from mmlight.tasks.tuning import Tuning

LABELS = torch.tensor([0, 1, 2, 0, 1, -1])
LATE = partial(LateFusion, fusion_dim=8, modality_dropout=0.5)
TRANSFORMER = partial(TransformerFusion, fusion_dim=8, fusion_heads=2, modality_dropout=0.5)


def classifier(names=("image", "text", "audio"), **settings):
    towers = tiny.towers()
    given = Towers(**{name: getattr(towers, name) for name in names})
    task = Classification(
        **{"towers": given, "num_classes": None if "label_field" in settings else 3} | settings
    )
    task.preprocessing = (
        {"class_names": ["cat", "dog", "owl"], **dict.fromkeys(("image", "text", "audio"), None)}
        if "label_field" in settings
        else None
    )
    return task


def built(*args, **settings):
    task = classifier(*args, **settings)
    if task.preprocessing is not None:
        # only the names matter here: towers are checked against data elsewhere
        names, task.preprocessing = task.preprocessing, None
        task._num_classes = 3
        task.configure_model()
        task.preprocessing, task._num_classes = names, None
        return task
    task.configure_model()
    return task


def trainer(folder, **settings):
    return lightning.Trainer(
        **settings,
        accelerator="cpu",
        max_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def batches(*given):
    return DataLoader(given, batch_size=None)


def without(batch, name, rows):
    part = getattr(batch, name)
    key = "present_N" if name == "text" else "present_B"
    present = getattr(part, key).clone()
    present[rows] = False
    return replace(batch, **{name: replace(part, **{key: present})})


@pytest.mark.parametrize("fusion", [LATE, TRANSFORMER])
def test_answer_ignores_what_a_sample_lacks(fusion):
    task = built(fusion=fusion).eval()
    batch = without(tiny.batch(labels=LABELS), "image", [1, 2])
    other = replace(batch, image=replace(batch.image, pixels_BCHW=255 - batch.image.pixels_BCHW))
    same, changed = task.logits(batch), task.logits(other)
    torch.testing.assert_close(same[[1, 2]], changed[[1, 2]])
    assert (same[[0, 3]] - changed[[0, 3]]).abs().max() > 1e-4


@pytest.mark.parametrize("fusion", [LATE, TRANSFORMER])
def test_any_subset_of_modalities_is_scored(fusion, tmp_path):
    task = built(fusion=fusion)
    batch = without(without(tiny.batch(labels=LABELS), "image", [0, 1]), "audio", [0, 2])
    nothing = without(batch, "text", [0])  # sample 0 has no modality at all
    scores = trainer(tmp_path).validate(task, batches(nothing), verbose=False)[0]
    assert {n.split("/")[1] for n in scores if n.count("/") == 2} == {
        "image", "text", "audio", "image_text", "image_audio", "text_audio",
    }  # fmt: skip
    assert scores["val/accuracy"] * 5 == pytest.approx(round(scores["val/accuracy"] * 5), abs=1e-4)
    evaluation = task.evaluation
    assert evaluation.samples_S.tolist() == list(range(100, 106))
    assert evaluation.labels_S.tolist() == LABELS.tolist()
    assert np.isfinite(evaluation.logits_SK).all()


def test_data_without_a_modality_equals_samples_without_it():
    task = built(fusion=TRANSFORMER).eval()
    batch = tiny.batch(labels=LABELS)
    torch.testing.assert_close(
        task.logits(replace(batch, audio=None)),
        task.logits(without(batch, "audio", range(6))),
    )


def test_modality_dropout_leaves_one_that_is_there():
    task = built(fusion=partial(LateFusion, fusion_dim=8, modality_dropout=0.9))
    seen = []
    join = task.fusion.join
    task.fusion.join = lambda t, m, present: seen.append(present) or join(t, m, present)
    batch = without(tiny.batch(labels=LABELS), "image", [0, 1, 2])
    for seed in range(10):
        torch.manual_seed(seed)
        task.train().logits(batch)
    kept = torch.stack([torch.stack(list(p.values())) for p in seen])  # draws, modality, sample
    assert bool(kept.any(1).all())
    assert not bool(kept[:, 0, :3].any())
    assert kept.float().mean() < 0.6


def test_several_captions_count_as_one_sample(tmp_path):
    task = built(("text",))
    batch = tiny.batch(captions=3, labels=LABELS)
    assert task.logits(batch).shape == (6, 3)
    trainer(tmp_path).validate(task, batches(batch), verbose=False)
    assert task.evaluation.logits_SK.shape == (6, 3)


def test_single_tower_learns_and_its_file_alone_predicts_the_same(tmp_path):
    task = built(("image",), head=PooledHeadSettings(hidden_dim=8, dropout=0.1, norm=True))
    batch = tiny.batch(labels=LABELS)
    fitting = trainer(tmp_path)
    fitting.fit(task, batches(batch))
    fitting.save_checkpoint(tmp_path / "a.ckpt")
    again = load_task(tmp_path / "a.ckpt")
    ours, theirs = task.eval().predict_step(batch, 0), again.predict_step(batch, 0)
    assert ours == theirs
    assert ours[0]["key"] == "00000/0"
    assert sum(ours[0]["probabilities"].values()) == pytest.approx(1)
    assert ours[0]["probability"] == max(ours[0]["probabilities"].values())


def test_a_head_with_max_norm_keeps_its_rows_short(tmp_path):
    batch = tiny.batch(labels=LABELS)
    norms = {}
    for limit in (None, 0.05):
        task = built(("image",), head=PooledHeadSettings(max_norm=limit))
        trainer(tmp_path).fit(task, batches(batch))
        norms[limit] = task.head.layers[-1].weight.norm(dim=1)
    assert bool((norms[None] > 0.06).any())
    assert bool((norms[0.05] <= 0.05001).all())
    with pytest.raises(UserError, match=r"max_norm: 0 must be above 0"):
        PooledHeadSettings(max_norm=0)


def test_tokens_vote_by_mean_probability_and_learn_one_by_one(tmp_path):
    task = built(("text",), votes=True)
    batch = tiny.batch(labels=LABELS)
    trainer(tmp_path).fit(task, batches(batch))
    ((tokens, mask, _),) = task.eval().features(batch).values()
    assert mask.sum(1).min() > 1
    chances = task.head(tokens).softmax(2)
    mean = torch.stack([row[keep].mean(0) for row, keep in zip(chances, mask, strict=True)])
    torch.testing.assert_close(task.probabilities(batch), mean)
    torch.testing.assert_close(task.logits(batch).exp(), mean)
    label = LABELS[:, None].expand(mask.shape)[mask]
    expected = F.cross_entropy(task.head(tokens)[mask], label, ignore_index=-1)
    task.log_gated = lambda values: None
    torch.testing.assert_close(task.training_step(batch, 0), expected)


def test_votes_are_of_one_tower():
    with pytest.raises(UserError, match=r"model\.votes: tokens of one tower vote, not of image"):
        built(("image", "text"), votes=True)


def test_two_classes_of_one_name_stay_two(tmp_path):
    task = built(("image",))
    batch = tiny.batch(labels=LABELS)
    plain = task.predict_step(batch, 0)
    task.preprocessing = {"class_names": ["crane", "dog", "crane"]}
    rows = task.predict_step(batch, 0)
    for row, number in zip(rows, plain, strict=True):
        chances = list(number["probabilities"].values())
        assert list(row["probabilities"]) == ["crane (0)", "dog", "crane (2)"]
        assert list(row["probabilities"].values()) == chances
        assert row["class"] == number["class"] == int(np.argmax(chances))
        assert row["label"] == ["crane", "dog", "crane"][row["class"]]
        assert row["probability"] == max(chances)
    trainer(tmp_path).validate(task, batches(batch), verbose=False)
    assert task.evaluation.class_names == ["crane (0)", "dog", "crane (2)"]


@pytest.mark.parametrize(
    ("names", "fits"),
    [
        (["cat", "dog", "owl"], True),
        (["cat", "hound", "owl"], True),
        (["n1", "n2", "n3"], True),
        (["dog", "cat", "owl"], False),
        (["cat", "owl", "dog"], False),
    ],
)
def test_a_checkpoint_takes_no_classes_in_another_order(names, fits):
    task = built(("image",))
    task.preprocessing = {"class_names": ["cat", "dog", "owl"]}
    checkpoint = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    task.preprocessing = {"class_names": names}
    if fits:
        task.on_load_checkpoint(checkpoint)
        return
    with pytest.raises(UserError, match="of the checkpoint; give the names in the order"):
        task.on_load_checkpoint(checkpoint)


def test_several_labels_by_name_or_number(tmp_path):
    task = built(("image",), objective=BinaryCrossEntropy, label_field="labels")
    batch = tiny.batch()
    rows = [["cat", "owl"], [1], [], None, "dog", [0, 1, 2]]
    batch = replace(batch, fields={"labels": rows})
    assert task.labels(batch).tolist() == [
        [1, 0, 1], [0, 1, 0], [0, 0, 0], [-1, -1, -1], [0, 1, 0], [1, 1, 1],
    ]  # fmt: skip
    scores = trainer(tmp_path).validate(task, batches(batch), verbose=False)[0]
    assert {"val/mean_average_precision", "val/micro_f1", "val/exact_match"} <= scores.keys()
    row = task.predict_step(batch, 0)[0]
    assert set(row) == {"key", "labels", "classes", "probabilities"}
    assert row["labels"] == [task.class_names[k] for k in row["classes"]]
    with pytest.raises(UserError, match=r"of sample 00000/0: the label 'cow' is not in"):
        task.labels(replace(batch, fields={"labels": [["cow"]] * 6}))


class _Norms(lightning.Callback):
    def __init__(self):
        self.found = []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        grads = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
        if grads:
            self.found.append(float(torch.stack(grads).norm()))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_for_a_fused_optimiser_in_mixed_precision_too(tmp_path, precision):
    norms = _Norms()
    run = trainer(tmp_path, precision=precision, gradient_clip_val=0.01, callbacks=[norms])
    task = classifier(("image",))
    run.fit(task, batches(*[replace(tiny.batch(), label_B=LABELS)] * 4))
    assert run.optimizers[0].param_groups[0]["fused"]
    assert norms.found == pytest.approx([0.01] * len(norms.found), rel=1e-3)
    assert len(norms.found) >= 2


def test_mixing_keeps_targets_with_their_pixels():
    """Images that are their class: mixed pixels say how the targets must be mixed."""
    torch.manual_seed(0)
    batch = tiny.batch(size=4)
    pixels = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    pixels[1::2] = 200
    batch = replace(batch, audio=None, image=replace(batch.image, pixels_BCHW=pixels))
    target_BK = nn.functional.one_hot(torch.tensor([0, 1, 0, 1])).float()
    mixed_any = 0
    for kind in (dict(mixup_alpha=1.0), dict(cutmix_alpha=1.0)):
        for _ in range(20):
            mixed, targets = Mixing(**kind)(batch, target_BK, counted_B=torch.ones(4).bool())
            share_B = mixed.image.pixels_BCHW.float().mean((1, 2, 3)) / 200
            torch.testing.assert_close(share_B, targets[:, 1])
            mixed_any += int(((share_B > 0) & (share_B < 1)).any())
    assert mixed_any > 20
    assert torch.equal(batch.image.pixels_BCHW, pixels)


def test_mixing_leaves_samples_without_the_modality_or_a_label_alone():
    batch = without(tiny.batch(size=4), "audio", [0, 1, 2])
    target_BK = torch.eye(4)
    for seed in range(5):
        torch.manual_seed(seed)
        mixing = Mixing(mixup_alpha=1.0)
        _, targets = mixing(batch, target_BK, counted_B=torch.ones(4).bool())
        assert torch.equal(targets, target_BK)
        counted_B = torch.tensor([True, False, True, True])
        _, targets = mixing(tiny.batch(size=4), target_BK, counted_B=counted_B)
        assert torch.equal(targets[1], target_BK[1]) and not targets[[0, 2, 3], 1].any()


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        ((), {}, "model.towers is empty"),
        (("image",), dict(fusion=LATE), "model.fusion has no effect with the image tower alone"),
        (("text",), dict(mixing=Mixing(mixup_alpha=1)), "texts cannot be mixed"),
        (("audio",), dict(mixing=Mixing(cutmix_alpha=1)), "only images are cut"),
        (("image",), dict(num_classes=None), "model.num_classes is not set"),
        (("image",), dict(objective=BinaryCrossEntropy), "model.label_field"),
    ],
)
def test_settings_without_sense_are_refused(names, settings, message):
    with pytest.raises(UserError, match=message):
        built(names, **settings)


def test_labels_beyond_the_classes_are_refused():
    task = built(("image",))
    with pytest.raises(UserError, match="label 7, but there are 3 classes"):
        task.labels(tiny.batch(labels=LABELS + 5))
    with pytest.raises(UserError, match="the data has no labels"):
        task.labels(tiny.batch())


def test_linear_probe_moves_the_head_alone(tmp_path):
    task = built(("image",), tuning=Tuning(freeze="all"))
    before = {k: v.clone() for k, v in task.state_dict().items()}
    trainer(tmp_path).fit(task, batches(tiny.batch(labels=LABELS)))
    moved = {k for k, v in task.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"head.layers.1.weight", "head.layers.1.bias"}
