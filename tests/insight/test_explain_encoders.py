"""Every kind of encoder is explained by the methods that suit it."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "encoders"))
from encoders.encoder_inputs import AUDIO_CONFIGS, TEXT_CONFIGS
from planted import ENCODERS, make_batch

from mmlight.encoders.hf_audio import HfAudio
from mmlight.encoders.hf_text import HfText
from mmlight.encoders.mel import LogMelSettings
from mmlight.encoders.mel_timm import MelTimm
from mmlight.encoders.text_cnn import TextCnn
from mmlight.encoders.timm_image import TimmImage
from mmlight.errors import UserError
from mmlight.insight.explain import explain
from mmlight.insight.samples import Explained, metrics_of, rows_of
from mmlight.insight.settings import ExplainSettings
from mmlight.insight.subject import Subject
from mmlight.insight.units import Tokens
from mmlight.tasks.classification import Classification
from mmlight.tasks.tower import Towers, TowerSettings

ALL = ["attention", "rollout", "grad_cam", "integrated_gradients"]
FLOW = ["attention", "rollout", "integrated_gradients"]
MAPS = ["grad_cam", "integrated_gradients"]
QUICK = ExplainSettings(gradient_steps=64, curve_steps=4, random_orders=1)
VIT = dict(patch_size=8, embed_dim=16, depth=2, num_heads=2)
CASES = {
    "vit": ("image", ENCODERS["vit"][1], ALL),
    "cnn": ("image", ENCODERS["cnn"][1], MAPS),
    "swin": (
        "image",
        partial(
            TimmImage,
            "swin_tiny_patch4_window7_224",
            img_size=16,
            kwargs=dict(embed_dim=8, depths=(1, 1), num_heads=(2, 2), window_size=4),
        ),
        MAPS,
    ),
    "mel-vit": (
        "audio",
        partial(
            MelTimm,
            "vit_tiny_patch16_224",
            mel=LogMelSettings(sample_rate_hz=8000, n_mels=32),
            frames=56,
            kwargs=VIT,
        ),
        ALL,
    ),
    **{
        name: ("audio", partial(HfAudio, config=config), ALL if name != "clap" else ALL[3:])
        for name, config in AUDIO_CONFIGS.items()
        if name != "hubert"
    },
    **{name: ("text", partial(HfText, config=c), FLOW) for name, c in TEXT_CONFIGS.items()},
    "text-cnn": ("text", partial(TextCnn, vocab_size=50, filters=8), MAPS[1:]),
}


def subject_of(name):
    modality, encoder, _ = CASES[name]
    torch.manual_seed(0)
    task = Classification(towers=Towers(**{modality: TowerSettings(encoder)}), num_classes=3)
    task.configure_model()
    for parameter in task.head.parameters():
        torch.nn.init.normal_(parameter)
    batch = make_batch(modality, size=1, seed=1)
    return Subject(task.eval(), batch, modality, task.class_question(1))


@pytest.mark.parametrize("name", CASES)
def test_methods_that_suit_it(name):
    subject = subject_of(name)
    tokens = Tokens(["", *["w"] * 10, ""], 3) if subject.modality == "text" else None
    found = explain(subject, QUICK, tokens=tokens)
    assert [a.method for a in found.attributions] == CASES[name][2]
    for attribution in found.attributions:
        assert np.isfinite(attribution.importance_U).all()
        assert attribution.map_RK.shape == found.canvas_RK.shape
        assert attribution.importance_U.any(), attribution.method
        assert np.isfinite(attribution.curves.deletion_N).all()
    whole, nothing = found.random.deletion_N[[0, -1]]
    assert whole == pytest.approx(found.confidence, abs=1e-5)
    assert found.random.insertion_N[[0, -1]] == pytest.approx([nothing, whole], abs=1e-5)
    assert (found.heads is None) == ("rollout" not in CASES[name][2])
    metrics = metrics_of([Explained(0, "s/0", "", found)])
    assert metrics["integrated_gradients_gap"] < 0.05
    (row, *_) = rows_of([Explained(0, "s/0", "", found)], modality=subject.modality)
    assert row["units"] == len(row["importance"])


def test_a_method_that_does_not_suit_is_refused_by_name():
    with pytest.raises(UserError, match="a ResNet has no attention"):
        explain(subject_of("cnn"), ExplainSettings(methods=["rollout"]))
    with pytest.raises(UserError, match="grad_cam finds no map"):
        explain(subject_of("clap"), ExplainSettings(methods=["grad_cam"]))
