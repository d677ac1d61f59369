"""The same input gives the same embedding here and in open_clip, both directions.

`make slow` installs open_clip into a folder of its own and names it in OPEN_CLIP. Models are built
from open_clip's own configs, with random weights: nothing is downloaded.
"""

import json
import os
import sys
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from mmlight.batch import Images, Text
from mmlight.published.open_clip.files import CONFIG, WEIGHTS
from mmlight.published.open_clip.text import MODELS
from mmlight.published.open_clip.write import write_open_clip
from mmlight.saved.checkpoint import Saved
from mmlight.tasks.contrastive import Contrastive
from mmlight.tasks.load import load_task
from mmlight.tasks.tower import Towers, TowerSettings

KINDS = (
    "RN50",
    "ViT-B-32",
    "ViT-B-32-quickgelu",
    "ViT-B-16-SigLIP",
    "ViT-B-16-SigLIP2",
    "convnext_base",
    "coca_ViT-B-32",
    "roberta-ViT-B-32",
)
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def open_clip():
    folder = os.environ.get("OPEN_CLIP")
    if not folder:
        pytest.skip("OPEN_CLIP names no folder with open_clip; make slow installs one")
    sys.path.append(folder)  # behind ours: its own torch is not wanted
    return pytest.importorskip("open_clip")


def their_model(open_clip, config, *, roberta):
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    config = deepcopy(config)
    kind = CLIP
    if config.pop("custom_text", False) or roberta is not None:
        kind = CoCa if "multimodal_cfg" in config else CustomTextCLIP
    model = kind(**config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
        model.logit_scale.fill_(3.3)
    return model


def written(open_clip, name, folder):
    """Write a model of theirs as open_clip itself does; return it."""
    config = open_clip.get_model_config(name)
    roberta = None
    if "hf_model_name" in config["text_cfg"]:  # whose config it would fetch
        from transformers import RobertaConfig

        sizes = {key: value for key, value in MODELS["roberta-base"].items() if key != "model_type"}
        roberta = folder.parent / "roberta-base"
        RobertaConfig(**sizes).save_pretrained(roberta)
        config["text_cfg"] |= {"hf_model_name": str(roberta), "hf_model_pretrained": False}
    theirs = their_model(open_clip, config, roberta=roberta)
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"}
    folder.mkdir()
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    (folder / CONFIG).write_text(text)
    tensors = {key: value.clone().contiguous() for key, value in theirs.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)
    return theirs, roberta


class Inputs:
    """Pixels and captions, as either side takes them; some captions fill all places."""

    def __init__(self, theirs, task, *, roberta):
        encoder = task.tower("text").encoder
        places = (task.preprocessing["text"])["max_tokens"]
        self.pixels = torch.randint(0, 256, (3, 3, 224, 224), dtype=torch.uint8)
        lengths = torch.tensor([7, places, 20, places - 1])
        self.mask = torch.arange(places) < lengths[:, None]
        words = torch.randint(3, encoder.vocab_size - 3, (4, places))
        ends = torch.arange(places) == lengths[:, None] - 1
        words[ends] = 2 if roberta else encoder.vocab_size - 1
        self.ids = words.where(self.mask, torch.tensor(encoder.pad_token_id or 0))

    def of_theirs(self, model):
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        with torch.no_grad():
            image = model.encode_image((self.pixels.float() / 255 - mean) / std)
            return F.normalize(image, dim=-1), F.normalize(model.encode_text(self.ids), dim=-1)

    def of_ours(self, task, rows=(0, 1, 2, 3)):
        rows = list(rows)
        width = int(self.mask[rows].sum(1).max())
        here = torch.ones(len(rows), dtype=torch.bool)
        ids, mask = self.ids[rows][:, :width], self.mask[rows][:, :width]
        text = Text(ids, mask, here, torch.arange(len(rows)), torch.arange(len(rows)))
        image = Images(self.pixels, torch.ones(3, dtype=torch.bool))
        with torch.no_grad():
            return task.encode("image", image), task.encode("text", text)


def largest(first, second):
    return max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_embeddings_are_open_clips(open_clip, name, tmp_path):
    torch.manual_seed(0)
    theirs, roberta = written(open_clip, name, tmp_path / "theirs")
    task = load_task(tmp_path / "theirs")
    inputs = Inputs(theirs, task, roberta=roberta)
    their_image, their_text = inputs.of_theirs(theirs)
    assert (their_text[0] - their_text[1]).abs().max() > 1e-3  # or there is nothing to compare
    differences = {"read": largest((their_image, their_text), inputs.of_ours(task))}
    # Short captions in a batch of their own: theirs are padded to all places.
    short = inputs.of_ours(task, rows=(0, 2))[1]
    differences["read, short"] = largest((their_text[[0, 2]],), (short,))
    assert task.objective.log_scale.item() == pytest.approx(3.3)

    with torch.no_grad():  # as after some training
        for parameter in task.parameters():
            parameter += 0.005 * torch.randn_like(parameter)
    out = tmp_path / "ours"
    out.mkdir()
    write_open_clip(out, Saved(task.rebuild_description(), task.preprocessing, task.state_dict()))
    if roberta is not None:  # else it would be fetched
        config = json.loads((out / CONFIG).read_text())
        assert config["model_cfg"]["text_cfg"]["hf_model_name"] == "roberta-base"
        config["model_cfg"]["text_cfg"]["hf_model_name"] = str(roberta)
        (out / CONFIG).write_text(json.dumps(config))
    back = open_clip.create_model(f"local-dir:{out}").eval()
    assert back.visual.preprocess_cfg["mean"] == MEAN
    assert back.visual.preprocess_cfg["resize_mode"] == "squash"
    differences["written"] = largest(inputs.of_theirs(back), inputs.of_ours(task))
    print(f"\n{name}: " + ", ".join(f"{what} {value:.1e}" for what, value in differences.items()))
    assert max(differences.values()) <= 1e-5


@pytest.mark.parametrize("size", [160, 288])
def test_position_embeddings_of_another_size_are_those_of_open_clip(open_clip, tmp_path, size):
    from open_clip.model import resize_pos_embed

    torch.manual_seed(0)
    theirs, _ = written(open_clip, "ViT-B-32", tmp_path / "theirs")
    config = open_clip.get_model_config("ViT-B-32")
    config["vision_cfg"]["image_size"] = size
    larger = their_model(open_clip, config, roberta=None)
    tensors = theirs.state_dict()
    resize_pos_embed(tensors, larger)
    larger.load_state_dict(tensors)
    towers = Towers(image=TowerSettings(changes={"img_size": size}))
    task = Contrastive(from_pretrained=str(tmp_path / "theirs"), towers=towers)
    task.configure_model()
    ours = task.eval().state_dict()["towers.image.encoder.model.pos_embed"][0]
    assert (ours - tensors["visual.positional_embedding"]).abs().max() <= 1e-6
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        wanted = F.normalize(larger.encode_image((pixels.float() / 255 - mean) / std), dim=-1)
        found = task.encode("image", Images(pixels, torch.ones(2, dtype=torch.bool)))
    difference = largest((wanted,), (found,))
    print(f"\nViT-B-32 at {size}: {difference:.1e}")
    assert difference <= 1e-5
