"""Inputs are prepared as the weights of the towers want it, from the fit to the prediction."""

import io
import json

import numpy as np
import pytest
import timm
import torch
from cli_data import changed, experiment, only_run, run_in_process, write_data, write_yaml
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config

from mmlight.interop.embedder import Embedder
from mmlight.interop.saved_config import saved_config

CONFIG = {
    "input_size": [3, 40, 40],
    "mean": [0.2, 0.5, 0.6],
    "std": [0.3, 0.4, 0.5],
    "crop_pct": 0.8,
    "interpolation": "bilinear",
    "crop_mode": "squash",
}
IMAGE = "model.init_args.towers.image"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preparation")
    write_data(folder / "data")
    model = timm.create_model("test_resnet", pretrained=False)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"pretrained_cfg": CONFIG}))
    return folder


def fit(places, name, **changes):
    own = experiment(places / "data", places / "runs")
    encoder = {
        "class_path": "mmlight.encoders.timm_image.TimmImage",
        "init_args": {
            "name": "test_resnet",
            "weights": str(places / "model.safetensors"),
        },
    }
    settings = {
        f"{IMAGE}.encoder": encoder,
        "data.init_args.image": None,
        "data.init_args.audio": {"max_seconds": 0.2},
        "trainer.max_steps": 2,
        "data.init_args.val": None,
    }
    config = write_yaml(places / f"{name}.yaml", changed(own, settings | changes))
    assert run_in_process("fit", "-c", config) == 0
    return only_run(places / "runs", name)


def picture():
    y, x = np.mgrid[:70, :100]
    pixels = np.stack([x * 2.5, y * 3.5, 128 + 100 * np.sin((x + y) / 9)], axis=-1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def seen_by(run):
    """What the image encoder's model gets of a picture, through a checkpoint alone."""
    embedder = Embedder.load(run)
    model = embedder.task.tower("image").encoder.model
    seen = []
    features = model.forward_features
    model.forward_features = lambda x: seen.append(x) or features(x)
    data = io.BytesIO()
    picture().save(data, "PNG")
    embedder.images([data.getvalue()])
    return seen[0][0]


def test_a_runs_checkpoint_prepares_images_as_timm_does_for_its_weights(places):
    run = fit(places, "first")
    theirs = create_transform(**resolve_data_config({}, pretrained_cfg=CONFIG))(picture())
    torch.testing.assert_close(seen_by(run).contiguous(), theirs, atol=0.03, rtol=0)
    kept = saved_config(next((run / "checkpoints").glob("*.ckpt")))["data"]["init_args"]
    assert kept["image"]["size"] == 40 and kept["image"]["crop_pct"] == 0.8
    assert kept["audio"]["sample_rate_hz"] == 4000  # the audio tower's


@pytest.mark.parametrize("with_encoder", [False, True])
def test_a_tower_of_a_run_brings_its_preparation(places, with_encoder):
    first = places / "runs" / "first"
    if not first.exists():
        fit(places, "first")
    own = {"class_path": "mmlight.encoders.timm_image.TimmImage"}
    own["init_args"] = {"name": "test_resnet"}
    name = f"second_{with_encoder}"
    tower = {"from_run": str(first)} | ({"encoder": own} if with_encoder else {})
    run = fit(places, name, **{IMAGE: tower})
    theirs = create_transform(**resolve_data_config({}, pretrained_cfg=CONFIG))(picture())
    torch.testing.assert_close(seen_by(run).contiguous(), theirs, atol=0.03, rtol=0)


def test_what_the_user_sets_is_said_in_a_line(places, capsys):
    fit(places, "own", **{"data.init_args.image": {"size": 32, "interpolation": "bicubic"}})
    said = [line for line in capsys.readouterr().err.splitlines() if "data.image" in line]
    assert said == [
        "mmlight: data.image is set to size: 32, interpolation: bicubic; the image tower was made "
        "for size: 40, interpolation: bilinear"
    ]
