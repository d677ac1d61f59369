"""What is trained at which step, and how fast."""

from functools import partial

import pytest
import torch
from tasks import tiny

from mmlight.errors import UserError
from mmlight.optim.adamw import AdamWSettings
from mmlight.tasks.classification import Classification
from mmlight.tasks.load import load_task
from mmlight.tasks.tower import Towers, TowerSettings
from mmlight.tasks.tuning import LoraSettings, Tuning


def classifier(*, towers=None, **settings):
    towers = towers or Towers(image=tiny.towers().image)
    task = Classification(towers=towers, num_classes=3, **settings)
    task.configure_model()
    return task


def saved_run(folder, **settings):
    """A contrastive checkpoint."""
    task = tiny.task(**settings)
    checkpoint = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    path = folder / "run" / "checkpoints" / "step-1.ckpt"
    path.parent.mkdir(parents=True)
    torch.save(checkpoint, path)
    return task, folder / "run"


def pretrained(folder, **tuning):
    _, run = saved_run(folder)
    towers = Towers(image=TowerSettings(from_run=str(run)))
    return classifier(towers=towers, tuning=Tuning(**tuning), optimizer=AdamWSettings(lr=1e-2))


def trained(task):
    return {name for name, p in task.named_parameters() if p.requires_grad}


def test_freeze_all_trains_the_head_alone():
    task = classifier(tuning=Tuning(freeze="all"))
    assert trained(task) == {"head.layers.1.weight", "head.layers.1.bias"}
    task.train()
    assert not task.towers["image"].encoder.training


def test_first_blocks_are_stem_and_blocks_and_last_ones_take_the_norm_along():
    task = classifier(tuning=Tuning(freeze="first 1 blocks"))
    left = {n for n in trained(task) if n.startswith("towers")}
    assert left
    assert all(".blocks.1." in n or "norm" in n.rsplit(".", 2)[-2] for n in left)
    task.train()
    blocks = task.towers["image"].encoder.model.blocks
    assert (blocks[0].training, blocks[1].training) == (False, True)

    staged = classifier(tuning=Tuning(unfreeze={0: "head", 5: "last 1 blocks"}))
    ever = {n for n in trained(staged) if n.startswith("towers")}
    assert ever == left


def test_schedule_unfreezes_step_by_step():
    task = classifier(tuning=Tuning(unfreeze={0: "head", 3: "last 1 blocks", 6: "all"}))
    parts, counts = task.trained, []
    changes = []
    for step in range(8):
        changes.append(parts.begin(step))
        counts.append(len(trained(task)))
    assert changes == [False, False, False, True, False, False, True, False]
    assert counts[0] == 2
    assert counts[0] < counts[3] < counts[6] == len(list(task.parameters()))
    assert parts.begin(0)  # back to a checkpoint's step
    assert len(trained(task)) == 2


def test_patterns_freeze_what_they_name():
    task = classifier(tuning=Tuning(freeze=["towers.image.*.patch_embed.*"]))
    frozen = {n for n, p in task.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in task.named_parameters() if ".patch_embed." in n}
    with pytest.raises(UserError, match=r"model.tuning.freeze: 'towers.imag.\*' is none of"):
        classifier(tuning=Tuning(freeze=["towers.imag.*"]))


def test_bitfit_trains_biases():
    task = classifier(tuning=Tuning(method="bitfit"))
    inside = {n for n in trained(task) if n.startswith("towers")}
    assert inside
    assert all(name.endswith("bias") for name in inside)


def test_frozen_batch_norm_keeps_its_statistics(tmp_path):
    _, run = saved_run(tmp_path)
    towers = Towers(audio=TowerSettings(from_run=str(run)))
    task = classifier(towers=towers, tuning=Tuning(batch_norm="frozen"))
    task.train()
    before = {n: b.clone() for n, b in task.named_buffers() if "running" in n}
    assert before
    task.logits(tiny.batch()).sum().backward()
    after = dict(task.named_buffers())
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_statistics_of_a_frozen_block_stay():
    task = classifier(
        towers=Towers(audio=tiny.towers().audio), tuning=Tuning(freeze="first 2 blocks")
    )
    task.train()
    buffers = {n: b.clone() for n, b in task.named_buffers() if "running_mean" in n}
    task.logits(tiny.batch())
    moved = {n for n, b in task.named_buffers() if n in buffers and not torch.equal(b, buffers[n])}
    assert moved
    assert moved < set(buffers)
    parameters = dict(task.named_parameters())
    for name in buffers:
        assert (name in moved) == parameters[name.replace("running_mean", "weight")].requires_grad


def test_a_pretrained_backbone_learns_at_a_tenth_of_its_old_rate(tmp_path):
    task = pretrained(tmp_path)
    scales = set(task.trained.lr_scales.values())
    assert [round(s, 6) for s in scales] == [AdamWSettings().lr * 0.1 / 1e-2]
    assert any("a tenth of the 0.0005 it was pretrained with" in n for n in task.trained.notes)
    scratch = classifier()
    assert scratch.trained.lr_scales == {}


def test_each_block_learns_slower_than_the_one_above(tmp_path):
    task = pretrained(tmp_path, backbone_lr=1e-3, layer_decay=0.5)
    scales = task.trained.lr_scales
    name = "towers.image.encoder.model.blocks.{}.mlp.fc1.weight"
    assert scales[name.format(0)] == pytest.approx(scales[name.format(1)] / 2)
    assert scales["towers.image.encoder.model.norm.weight"] == pytest.approx(0.1)
    assert scales["towers.image.encoder.model.patch_embed.proj.weight"] < scales[name.format(0)]


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_adapters_begin_as_nothing_train_alone_and_merge(method):
    pytest.importorskip("peft")
    towers = tiny.towers()
    for name in ("image", "text", "audio"):
        torch.manual_seed(0)
        plain = classifier(towers=Towers(**{name: getattr(towers, name)}))
        batch = tiny.batch()
        torch.manual_seed(0)
        task = classifier(
            towers=Towers(**{name: getattr(towers, name)}),
            tuning=Tuning(method=method, lora=LoraSettings(rank=2)),
        )
        plain.eval(), task.eval()
        torch.testing.assert_close(task.logits(batch), plain.logits(batch), atol=1e-5, rtol=1e-5)
        inside = {n for n in trained(task) if n.startswith("towers")}
        assert inside
        assert all(".lora_" in n for n in inside)
        optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], lr=1.0)
        for _ in range(2):
            task.logits(batch).square().sum().backward()
            optimizer.step()
        tuned = task.logits(batch)
        names = set(plain.state_dict())
        task.merge_adapters()
        assert set(task.state_dict()) == names
        torch.testing.assert_close(task.logits(batch), tuned, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(unfreeze={5: "all"}), "says nothing of step 0"),
        (dict(layer_decay=0.0), "layer_decay: 0.0 must be in"),
        (dict(freeze="all", unfreeze={0: "head"}), "leaves nothing for unfreeze"),
        (dict(lora=LoraSettings()), "lora: has no effect with method full"),
        (dict(method="lora", freeze="all"), "freeze: has no effect with method lora"),
        (dict(backbone_lr=-1.0), "backbone_lr: -1.0 must be above 0"),
    ],
)
def test_settings_without_sense_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Tuning(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(freeze="first 9 blocks"), "the image encoder has 2 blocks"),
        (dict(unfreeze={0: "hed"}), "model.tuning.unfreeze.0: 'hed' is none of"),
        (dict(method="lora", lora=LoraSettings(target=["*nothing"])), "'\\*nothing' is no layer"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        classifier(tuning=Tuning(**settings))


@pytest.mark.parametrize(
    "settings", [dict(backbone_lr=1e-4), dict(layer_decay=0.9), dict(batch_norm="frozen")]
)
def test_settings_of_pretrained_towers_alone(tmp_path, settings):
    task = classifier(tuning=Tuning(**settings))
    (key,) = settings
    with pytest.raises(UserError, match=f"{key} has no effect: no encoder is pretrained"):
        task.trained.check_effect()
    # A task that is rebuilt no longer knows that its tower was pretrained.
    tuned = pretrained(tmp_path, **settings)
    tuned.trained.check_effect()
    checkpoint = {"state_dict": tuned.state_dict()}
    tuned.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "tuned.ckpt")
    again = load_task(tmp_path / "tuned.ckpt")
    batch = tiny.batch()
    assert torch.equal(again.logits(batch), tuned.eval().logits(batch))


def test_tower_of_a_run_brings_encoder_and_projection(tmp_path):
    source, run = saved_run(tmp_path)
    towers = tiny.towers()
    towers.image = TowerSettings(from_run=str(run))
    again = tiny.task(towers=towers)
    ours, theirs = again.tower("image").state_dict(), source.tower("image").state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    notes = "\n".join(again.trained.notes)
    assert "towers.image.projection: of the same file" in notes
    assert "left over there: objective, towers.audio, towers.text" in notes
    assert "\nnew: objective (" in notes
    # What is written of it names no other file.
    described = again.rebuild_description()["init_args"]["towers"]["image"]
    assert described["from_run"] is None
    assert described["encoder"]["class_path"].endswith("TimmImage")


def test_settings_of_a_runs_encoder_can_change(tmp_path):
    source, run = saved_run(tmp_path)
    hidden = {"spec_augment": {"time_masks": 1, "time_width": 1.0}}
    audio = TowerSettings(from_run=str(run), changes=hidden)
    task = classifier(towers=Towers(audio=audio))
    encoder = task.tower("audio").encoder
    assert encoder.spec_augment.time_masks == 1
    assert source.tower("audio").encoder.spec_augment is None
    described = task.rebuild_description()["init_args"]["towers"]["audio"]
    assert described["changes"] is None
    assert described["encoder"]["init_args"]["spec_augment"]["time_width"] == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(changes={"spec_augmnt": {}}), r"no setting 'spec_augmnt' \(did you mean 'spec_aug"),
        (dict(changes={"mel": {"n_mels": 20}}, from_run=None), "there is no from_run"),
        (dict(changes={"pool": "attention"}), r"does not fit the changes: it lacks pool\."),
    ],
)
def test_changes_that_do_not_fit_are_refused(tmp_path, settings, message):
    _, run = saved_run(tmp_path)
    audio = TowerSettings(**{"from_run": str(run)} | settings)
    with pytest.raises(UserError, match=message):
        classifier(towers=Towers(audio=audio))


def test_tower_of_an_adapted_run_is_merged(tmp_path):
    pytest.importorskip("peft")
    _, run = saved_run(tmp_path, tuning=Tuning(method="lora"))
    task = classifier(towers=Towers(text=TowerSettings(from_run=str(run))))
    assert not any("lora" in name for name in task.state_dict())


def test_encoder_that_is_not_the_runs_names_the_tensors(tmp_path):
    _, run = saved_run(tmp_path)
    other = partial(
        tiny.TimmImage, "vit_tiny_patch16_224", img_size=16, kwargs=tiny.VIT | {"depth": 3}
    )
    towers = Towers(image=TowerSettings(encoder=other, from_run=str(run)))
    with pytest.raises(UserError, match=r"from_run: the encoder set .*lacks model.blocks.2"):
        classifier(towers=towers)


@pytest.mark.parametrize(
    ("given", "message"),
    [("nowhere", "no such run folder"), ("", "holds no complete checkpoint")],
)
def test_run_that_is_none_is_refused(tmp_path, given, message):
    towers = Towers(image=TowerSettings(from_run=str(tmp_path / given)))
    with pytest.raises(UserError, match=message):
        classifier(towers=towers)
    with pytest.raises(UserError, match="neither an encoder nor from_run"):
        classifier(towers=Towers(image=TowerSettings()))
