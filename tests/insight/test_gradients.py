import sys
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "encoders"))
from captum.attr import LayerGradCam
from encoders.encoder_inputs import AUDIO_CONFIGS
from planted import ENCODERS, make_batch

from mmlight.encoders.hf_audio import HfAudio
from mmlight.encoders.timm_image import TimmImage
from mmlight.errors import UserError
from mmlight.insight.blank import blank_canvas
from mmlight.insight.gradients import grad_cam, integrated_gradients
from mmlight.insight.subject import Subject, repeat
from mmlight.insight.units import Tokens, lay_over
from mmlight.tasks.classification import Classification
from mmlight.tasks.tower import Towers, TowerSettings


def subject_of(name, encoder=None, *, image_px=16):
    modality = ENCODERS[name][0]
    torch.manual_seed(0)
    task = Classification(
        towers=Towers(**{modality: TowerSettings(encoder or ENCODERS[name][1])}), num_classes=2
    )
    task.configure_model()
    for parameter in task.head.parameters():  # a head at its start says nothing
        torch.nn.init.normal_(parameter)
    task.eval()
    batch = repeat(make_batch(modality, size=1, seed=0, image_px=image_px), 1)
    return task, Subject(task, batch, modality, task.class_question(1))


@pytest.mark.parametrize("name", ENCODERS)
def test_integrated_gradients_add_up_to_the_difference(name):
    _, subject = subject_of(name, image_px=32 if name == "cnn" else 16)
    tokens = Tokens(["", *["w"] * 10, ""], 3) if name == "bert" else None
    blank = blank_canvas(subject, tokens=tokens)
    with torch.no_grad():
        ends = subject.score(torch.cat([subject.canvas.values, blank]))
    found = integrated_gradients(subject, blank)
    total = float(found.map_RK.sum())
    assert abs(total - float(ends[0] - ends[1])) <= 0.01 * abs(float(ends[0] - ends[1])) + 1e-5
    assert found.map_RK.shape == (subject.canvas.rows, subject.canvas.columns)
    assert found.gap <= 0.01 and found.num_steps < 512


def test_what_the_blank_keeps_gets_nothing():
    _, subject = subject_of("bert")
    blank = blank_canvas(subject, tokens=Tokens(["", *["w"] * 10, ""], 3))
    map_RK = integrated_gradients(subject, blank).map_RK
    assert map_RK[0, 0] == map_RK[0, -1] == 0 and (map_RK[0, 1:-1] != 0).all()


def test_grad_cam_of_a_cnn_is_captums():
    task, subject = subject_of("cnn", image_px=64)
    layer = task.tower("image").encoder.model.layer3  # 4 x 4; the last has 2 x 2
    cam = LayerGradCam(lambda values: subject.score(values), layer)
    theirs = cam.attribute(subject.canvas.values, relu_attributions=True)[0, 0].detach()
    assert theirs.shape == (4, 4)
    ours = grad_cam(subject)
    expected = lay_over(theirs, subject.canvas, smooth=True)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    assert ours.max() > 0


def test_grad_cam_of_a_class_token_passes_over_the_last_layer():
    vit = dict(patch_size=4, embed_dim=32, depth=3, num_heads=2)
    encoder = partial(TimmImage, "vit_tiny_patch16_224", img_size=16, kwargs=vit)
    task, subject = subject_of("vit", encoder)
    ours = grad_cam(subject)
    tokens_BLD = {}
    layer = task.tower("image").encoder.model.blocks[1]
    handle = layer.register_forward_hook(lambda m, a, out: tokens_BLD.update(out=out))
    values = subject.canvas.values.clone().requires_grad_()
    score = subject.score(values).sum()
    (slope,) = torch.autograd.grad(score, tokens_BLD["out"])
    handle.remove()
    weight_D = slope[0, 1:].mean(0)
    expected = (tokens_BLD["out"][0, 1:] @ weight_D).clamp(min=0).view(4, 4)
    torch.testing.assert_close(ours[::4, ::4], expected.detach(), atol=1e-6, rtol=1e-4)


def test_a_network_without_maps_is_refused():
    task = Classification(
        towers=Towers(audio=TowerSettings(partial(HfAudio, config=AUDIO_CONFIGS["clap"]))),
        num_classes=2,
    )
    task.configure_model()
    task.eval()
    batch = make_batch("audio", size=1, seed=0)
    subject = Subject(task, batch, "audio", task.class_question(1))
    with pytest.raises(UserError, match="grad_cam finds no map in a ClapAudioModel"):
        grad_cam(subject)


def test_nothing_is_left_behind():
    task, subject = subject_of("cnn", image_px=32)
    grad_cam(subject)
    integrated_gradients(subject, blank_canvas(subject), most_steps=4)
    assert all(p.grad is None for p in task.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in task.modules())
