from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from mmlight.encoders.encoder import Encoder

FOLDER = Path(__file__).parents[2] / "experiments" / "towers"
FILES = sorted(FOLDER.glob("*.yaml"))
SMALL = ("image_vit_tiny", "image_resnet_small", "audio_mel_vit_tiny")


def parser():
    made = ArgumentParser(exit_on_error=False)
    made.add_subclass_arguments(Encoder, "encoder", required=True)
    return made


def test_there_are_towers_of_each_modality():
    assert {path.name.split("_")[0] for path in FILES} == {"image", "text", "audio"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_tower_file_holds_one_encoder_with_known_settings(path):
    towers = yaml.safe_load(path.read_text())["model"]["init_args"]["towers"]
    (modality,) = towers
    parsed = parser().parse_object({"encoder": towers[modality]["encoder"]})
    if path.stem in SMALL:
        assert parser().instantiate(parsed).encoder.modality == modality


def test_one_mel_setting_leaves_the_others_as_they_are():
    made = parser().parse_object(
        {
            "encoder": {
                "class_path": "mmlight.encoders.mel_timm.MelTimm",
                "init_args": {"name": "resnet10t", "mel": {"sample_rate_hz": 8000}},
            }
        }
    )
    encoder = parser().instantiate(made).encoder
    assert (encoder.sample_rate_hz, encoder.log_mel.settings.n_mels) == (8000, 64)
