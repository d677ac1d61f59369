"""A published image tower at another image size: position embeddings are resized as open_clip does.

`test_open_clip_parity.py` compares with open_clip's own function.
"""

import hf_models
import open_clip_models
import pytest
import torch
from timm.layers import resample_abs_pos_embed

from mmlight.batch import Images
from mmlight.errors import UserError
from mmlight.published.read import read_model
from mmlight.tasks.contrastive import Contrastive
from mmlight.tasks.tower import Towers, TowerSettings

OPEN_CLIP = ["ViT", "SigLIP", "coca"]
PREFIX = {"siglip": 0}


def begun(folder, changes):
    towers = Towers(image=TowerSettings(changes=changes))
    task = Contrastive(from_pretrained=str(folder), towers=towers)
    task.configure_model()
    return task.eval()


def changes_of(kind, size):
    return {"config": {"image_size": size}} if kind in hf_models.MODELS else {"img_size": size}


@pytest.fixture(params=[*OPEN_CLIP, "clip", "siglip"], scope="module")
def published(request, tmp_path_factory):
    """Write a folder; return its kind, itself, its tensors by our names, and its image size."""
    kind = request.param
    folder = tmp_path_factory.mktemp("size") / "model"
    if kind in hf_models.MODELS:
        folder.mkdir()
        hf_models.write_folder(folder, kind)
    else:
        open_clip_models.made(kind, folder)
    _, saved = read_model(folder, key="model")
    return kind, folder, saved.tensors, 160 if kind == "SigLIP" else 32


def positions_of(tensors):
    ends = ("model.pos_embed", "position_embedding.weight")
    (name,) = (n for n in tensors if n.startswith("towers.image.") and n.endswith(ends))
    return name


@pytest.mark.parametrize("factor", [1.5, 0.5])
def test_position_embeddings_are_resized_and_nothing_else(published, factor):
    kind, folder, tensors, size = published
    size = int(size * factor)
    task = begun(folder, changes_of(kind, size))
    ours, name = task.state_dict(), positions_of(tensors)
    assert all(torch.equal(ours[n], tensors[n]) for n in tensors if n != name)
    prefix = PREFIX.get(kind, 1)
    before = tensors[name].view(1, -1, tensors[name].shape[-1])
    side = int(((before.shape[1] - prefix) ** 0.5) * factor)
    wanted = resample_abs_pos_embed(before, [side, side], num_prefix_tokens=prefix)
    torch.testing.assert_close(ours[name].view_as(wanted), wanted, atol=1e-6, rtol=0)
    assert not torch.equal(ours[name].flatten()[:64], tensors[name].flatten()[-64:])
    assert task.tower("image").preparation["size"] == size
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    with torch.no_grad():
        found = task.encode("image", Images(pixels, torch.ones(2, dtype=torch.bool)))
    assert found.isfinite().all() and found.shape == (2, task.embed_dim)


def test_its_own_size_changes_nothing(published):
    kind, folder, tensors, size = published
    ours = begun(folder, changes_of(kind, size)).state_dict()
    assert all(torch.equal(ours[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("size", [0, -8, 5, "large"])
def test_impossible_size_is_one_line(tmp_path, size):
    open_clip_models.made("ViT", tmp_path / "vit")
    (tmp_path / "clip").mkdir()
    hf_models.write_folder(tmp_path / "clip", "clip")
    for kind in ("vit", "clip"):
        with pytest.raises(UserError) as raised:
            begun(tmp_path / kind, changes_of(kind, size))
        assert "\n" not in str(raised.value)


@pytest.mark.slow  # a whole RN50
def test_a_pooling_for_one_size_is_refused_in_one_line(tmp_path):
    open_clip_models.made("RN50", tmp_path / "rn50")
    with pytest.raises(UserError, match=r"does not fit the changes: .*head.pos_embed"):
        begun(tmp_path / "rn50", {"img_size": 96})
