from dataclasses import replace
from functools import partial

import lightning
import pytest
import tiny
import torch
from torch.utils.data import DataLoader

from mmlight.encoders.timm_image import TimmImage
from mmlight.errors import UserError
from mmlight.metrics.retrieved import SCORES
from mmlight.objectives.clip import Clip
from mmlight.saved.checkpoint import check_same_model
from mmlight.tasks.evaluation import evaluate
from mmlight.tasks.joint_rows import first_captions
from mmlight.tasks.load import load_task
from mmlight.tasks.tower import Towers, TowerSettings, check_tower_fits


def gradients(task, batch):
    task.zero_grad()
    task.objective(lambda m: task.towers[m](getattr(batch, m)), batch).value.backward()
    return {n: p.grad for n, p in task.named_parameters() if p.grad is not None}


def test_every_tower_and_temperature_learns():
    task = tiny.task()
    grads = gradients(task, tiny.batch())
    for name in ("image", "text", "audio"):
        assert any(n.startswith(f"towers.{name}.") and g.abs().sum() > 0 for n, g in grads.items())
    assert grads["objective.log_scale"].shape == (3,)


def test_missing_modality_is_masked_not_learned_from():
    task = tiny.task(objective=partial(Clip, pairs={"image-text": 1.0})).eval()
    batch = tiny.batch()
    present = torch.tensor([True, True, False, True, True, True])
    image = replace(batch.image, present_B=present)
    masked = replace(batch, image=image)
    noise = image.pixels_BCHW.clone()
    noise[2] = 255 - noise[2]
    disturbed = replace(batch, image=replace(image, pixels_BCHW=noise))
    loss = lambda b: task.objective(lambda m: task.towers[m](getattr(b, m)), b).value  # noqa: E731
    assert torch.equal(loss(masked), loss(disturbed))
    assert not torch.equal(loss(masked), loss(batch))


def test_locked_tower_keeps_its_weights_and_statistics():
    locked = partial(TimmImage, "resnet10t", kwargs=dict(channels=(8, 8, 8, 8), stem_width=8))
    task = tiny.task(towers=tiny.towers(encoder=locked, locked=True)).train()
    before = {k: v.clone() for k, v in task.towers["image"].encoder.state_dict().items()}
    grads = gradients(task, tiny.batch())
    assert not [n for n in grads if n.startswith("towers.image.encoder.")]
    assert "towers.image.projection.weight" in grads
    after = task.towers["image"].encoder.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_checkpointing_gives_equal_gradients():
    torch.manual_seed(0)
    plain = tiny.task().train()
    saving = tiny.task(towers=tiny.towers(checkpointing=True)).train()
    saving.load_state_dict(plain.state_dict())
    calls = []
    block = next(b for b in saving.towers["image"].encoder.blocks() if b.repeated).modules[0]
    # Before, not after: torch stops the second pass as soon as it has what backward needs.
    block.register_forward_pre_hook(lambda *_: calls.append(1))
    a, b = gradients(plain, tiny.batch()), gradients(saving, tiny.batch())
    assert len(calls) == 2, "the block must run again in backward"
    for name, gradient in a.items():
        torch.testing.assert_close(b[name], gradient)


def test_checkpointing_of_a_locked_tower_is_refused():
    with pytest.raises(UserError, match="no effect"):
        tiny.task(towers=tiny.towers(checkpointing=True, locked=True))


def test_one_tower_is_refused():
    with pytest.raises(UserError, match="at least two"):
        tiny.task(towers=Towers(image=tiny.towers().image))


def test_tower_of_another_modality_is_refused():
    wrong = Towers(image=tiny.towers().text, audio=tiny.towers().audio)
    with pytest.raises(UserError, match="encodes text, not image"):
        tiny.task(towers=wrong)


def test_no_projection_needs_equal_widths():
    bare = TowerSettings(encoder=tiny.towers().image.encoder, projection="none")
    with pytest.raises(UserError, match=r"gives 16 and model\.embed_dim is 8"):
        tiny.task(towers=Towers(image=bare, text=tiny.towers().text))


@pytest.mark.parametrize(
    ("modality", "settings", "said"),
    [
        ("text", {"vocab_size": 41, "max_tokens": 12}, "table of 40 tokens"),
        ("text", {"vocab_size": 40, "max_tokens": 13}, "positions for 12"),
        ("audio", {"sample_rate_hz": 16000}, "set the first to 8000"),
        ("image", {"channels": 1}, "in_chans"),
        ("image", None, "data.members.image"),
    ],
)
def test_data_that_does_not_fit_a_tower_is_refused(modality, settings, said):
    encoder = tiny.task().towers[modality].encoder
    with pytest.raises(UserError, match=said):
        check_tower_fits(encoder, {modality: settings})


def test_first_captions_keeps_one_row_for_each_sample():
    batch = tiny.batch(4, captions=3)
    features = {"text": torch.arange(12.0)[:, None], "image": torch.zeros(4, 1)}
    encode, reduced = first_captions(batch, features)
    assert encode("text")[:, 0].tolist() == [0, 3, 6, 9]
    assert reduced.text.caption_id_N.tolist() == [0, 3, 6, 9]
    assert reduced.text.item_N.tolist() == [0, 1, 2, 3]


def test_scores_count_all_captions_and_leave_out_fillers():
    task = tiny.task()
    batch = tiny.batch(4, captions=2)
    batch = replace(batch, valid_B=torch.tensor([True, True, True, False]))
    eye = torch.eye(4)
    task.predict_step = lambda *_: {
        "image": eye,
        "text": eye.repeat_interleave(2, 0),
        "audio": eye,
    }
    scores = evaluate(task, [batch])
    assert task.evaluation.features["text"].shape == (6, 4)
    assert task.evaluation.captions == batch.captions[:6]
    assert {f"image_to_text/{name}" for name in SCORES} <= task.score_names()
    assert scores.pop("loss") > 0
    assert {name.rpartition("/")[2] for name in scores} <= set(SCORES)
    assert scores["image_to_text/recall_at_1"] == 1.0
    assert scores["text_to_image/median_rank"] == 1.0
    assert scores["text_to_image/chance_recall_at_1"] == pytest.approx(1 / 3)
    assert task.evaluation.samples_S.tolist() == [100, 101, 102]


def test_a_last_batch_of_one_sample_does_not_halve_the_loss(tmp_path):
    # The loss of a sample alone is 0: among 7 samples it is one of 7, fillers are nobody.
    task = tiny.task()
    full, alone = tiny.batch(), tiny.batch(seed=1)
    alone = replace(alone, valid_B=torch.tensor([True, *[False] * 5]))
    losses = {}
    for name, batches in {"full": [full], "both": [full, alone]}.items():
        validating = lightning.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        batches = DataLoader(batches, batch_size=None)
        (values,) = validating.validate(task, batches, verbose=False)
        losses[name] = values["val/loss"]
    assert losses["both"] == pytest.approx(6 / 7 * losses["full"], rel=1e-6)


def test_checkpoint_alone_rebuilds_the_task(tmp_path):
    task = tiny.task()
    checkpoint = {"state_dict": task.state_dict()}
    said = {
        "image": {"size": 16, "channels": 3},
        "text": {"vocab_size": 40, "max_tokens": 12},
        "audio": {"sample_rate_hz": 8000},
    }
    task.preprocessing = said
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "a.ckpt")
    again = load_task(tmp_path / "a.ckpt")
    batch = tiny.batch()
    for name in ("image", "text", "audio"):
        part = getattr(batch, name)
        assert torch.equal(again.encode(name, part), task.eval().encode(name, part))
    assert again.preprocessing == said


def test_checkpoint_of_another_model_names_tensors():
    with pytest.raises(UserError, match=r"lacks b; it has besides c; it differs: a is \(2,\)"):
        check_same_model(
            {"a": torch.zeros(2), "c": torch.zeros(1)}, {"a": torch.zeros(3), "b": torch.zeros(1)}
        )


def test_unsafe_checkpoint_is_not_unpickled(tmp_path):
    torch.save({"state_dict": {}, "mmlight": print}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="nothing of it was run"):
        load_task(tmp_path / "x.ckpt")
