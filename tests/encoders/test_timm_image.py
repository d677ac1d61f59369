import json

import pytest
import timm
import torch
from encoder_inputs import (
    assert_bf16_is_finite,
    assert_blocks_partition,
    assert_checkpointing_keeps_gradients,
    images,
)
from safetensors.torch import save_file

from mmlight.encoders.timm_image import CLIP_MEAN, CLIP_STD, TimmImage
from mmlight.errors import UserError

VIT = dict(embed_dim=16, depth=3, num_heads=2, patch_size=8)
VIT_NAME = "vit_tiny_patch16_224"
RESNET = dict(channels=(8, 8, 16, 16), stem_width=8)
SWIN = dict(window_size=4, embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2), patch_size=2)
MODELS = {
    "vit": (VIT_NAME, dict(img_size=32, kwargs=VIT)),
    "vit-map": (VIT_NAME, dict(img_size=32, pool="map", kwargs=VIT)),
    "vit-avg": (VIT_NAME, dict(img_size=32, pool="avg", kwargs=VIT)),
    "resnet": ("resnet10t", dict(kwargs=RESNET)),
    "convnext": ("convnext_atto", dict(kwargs=dict(depths=(1, 1, 2, 1), dims=(8, 8, 16, 16)))),
    "mobilenet": ("mobilenetv3_small_050", dict()),
    "efficientnet": ("efficientnet_b0", dict()),
    "swin": ("swin_tiny_patch4_window7_224", dict(img_size=32, kwargs=SWIN)),
}


def make(kind, **more):
    name, arguments = MODELS[kind]
    torch.manual_seed(0)
    return TimmImage(name, **(arguments | more))


@pytest.mark.parametrize("kind", MODELS)
def test_shapes_and_blocks(kind):
    encoder = make(kind).eval()
    encoded = encoder(images(), tokens=True)
    assert encoded.pooled_BD.shape == (2, encoder.out_dim)
    assert encoded.tokens_BLD.shape[::2] == (2, encoder.token_dim)
    assert encoded.mask_BL.shape == encoded.tokens_BLD.shape[:2]
    assert encoded.mask_BL.all()
    assert_blocks_partition(encoder)
    assert encoder.no_weight_decay() <= {name for name, _ in encoder.named_parameters()}


@pytest.mark.parametrize("kind", ["vit", "vit-map", "resnet", "convnext", "mobilenet", "swin"])
def test_all_parameters_learn_and_checkpointing_changes_no_gradient(kind):
    encoder = make(kind)
    for module in encoder.modules():  # one batch statistic for both passes
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    assert_checkpointing_keeps_gradients(encoder, images(count=3))


def test_vit_blocks_are_in_depth_order():
    encoder = make("vit")
    blocks = encoder.blocks()
    repeated = [block.name for block in blocks if block.repeated]
    assert repeated == ["model.blocks.0", "model.blocks.1", "model.blocks.2"]
    stem = {id(p) for m in blocks[0].modules for p in m.parameters()}
    for name in ("pos_embed", "cls_token"):
        assert id(getattr(encoder.model, name)) in stem
    assert id(encoder.model.patch_embed.proj.weight) in stem
    assert encoder.model.norm in blocks[-1].modules
    assert {"model.pos_embed", "model.cls_token"} <= encoder.no_weight_decay()


def test_resnet_blocks_are_in_depth_order():
    names = [block.name for block in make("resnet").blocks() if block.repeated]
    assert names == [f"model.layer{i}.0" for i in (1, 2, 3, 4)]


def test_pixels_are_normalised_as_clip_does():
    encoder = make("vit").eval()
    batch = images()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    expected = encoder.model((batch.pixels_BCHW.float() / 255 - mean) / std)
    torch.testing.assert_close(encoder(batch).pooled_BD, expected)


def test_own_statistics_and_channels():
    encoder = make("resnet", in_chans=1, mean=[0.1], std=[0.5]).eval()
    batch = images(channels=1)
    expected = encoder.model((batch.pixels_BCHW.float() / 255 - 0.1) / 0.5)
    torch.testing.assert_close(encoder(batch).pooled_BD, expected)
    with pytest.raises(UserError, match="1, but the images have 3 channels"):
        encoder(images())
    with pytest.raises(UserError, match="mean: 1 values for 3 channels"):
        make("resnet", mean=[0.1])


def test_patch_dropout_shortens_the_sequence_in_training_only():
    encoder = make("vit", patch_drop_rate=0.5)
    batch = images()
    assert encoder.train()(batch, tokens=True).tokens_BLD.shape[1] == 8
    first, second = encoder(batch).pooled_BD, encoder(batch).pooled_BD
    assert not torch.equal(first, second)
    encoder.eval()
    assert encoder(batch, tokens=True).tokens_BLD.shape[1] == 16
    torch.testing.assert_close(encoder(batch).pooled_BD, encoder(batch).pooled_BD)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_of_a_file_load_and_positions_are_resized(tmp_path, suffix):
    torch.manual_seed(1)
    source = timm.create_model(VIT_NAME, img_size=48, num_classes=5, **VIT)
    path = str(tmp_path / f"weights.{suffix}")
    if suffix == "safetensors":
        save_file(source.state_dict(), path)
    else:
        torch.save({"state_dict": source.state_dict()}, path)
    encoder = make("vit", weights=path)
    count = len(source.state_dict()) - 2
    assert encoder.origin == (
        f"{count} tensors of {path}; new: none; left over there: head.bias, head.weight"
    )
    loaded = encoder.model
    assert torch.equal(loaded.blocks[1].mlp.fc1.weight, source.blocks[1].mlp.fc1.weight)
    assert loaded.pos_embed.shape == (1, 17, 16)
    assert torch.equal(loaded.pos_embed[:, 0], source.pos_embed[:, 0])
    assert (loaded.pos_embed[:, 1:].mean() - source.pos_embed[:, 1:].mean()).abs() < 0.01
    grey = make("vit", weights=path, in_chans=1).model
    torch.testing.assert_close(
        grey.patch_embed.proj.weight, source.patch_embed.proj.weight.sum(1, keepdim=True)
    )


def test_rebuild_args_need_no_weights(tmp_path):
    source = timm.create_model(VIT_NAME, img_size=32, num_classes=0, **VIT)
    path = tmp_path / "weights.safetensors"
    save_file(source.state_dict(), path)
    first = make("vit", weights=str(path)).eval()
    path.unlink()
    second = TimmImage(**first.rebuild_args()).eval()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(images()).pooled_BD, second(images()).pooled_BD)


class Evil:
    def __reduce__(self):
        return (exec, ("raise RuntimeError('unpickled')",))


def test_weights_that_do_not_fit_are_refused(tmp_path):
    wide = timm.create_model(VIT_NAME, img_size=32, num_classes=0, **(VIT | dict(embed_dim=32)))
    save_file(wide.state_dict(), tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match=r"other shapes.*blocks\.0"):
        make("vit", weights=str(tmp_path / "wide.safetensors"))
    with pytest.raises(UserError, match="no tensor of"):
        make("resnet", weights=str(tmp_path / "wide.safetensors"))
    with pytest.raises(UserError, match="no file"):
        make("vit", weights=str(tmp_path / "missing.pt"))
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="not unpickled"):
        make("vit", weights=str(tmp_path / "evil.pt"))
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match=r"text\.pt"):
        make("vit", weights=str(tmp_path / "text.pt"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(name="vit_tiny_patch16_225"), "did you mean 'vit_tiny_patch16_224'"),
        (dict(name="resnet10t", patch_drop_rate=0.5), "takes no 'patch_drop_rate'"),
        (dict(name="resnet10t", kwargs=dict(deptth=1)), "takes no 'deptth'"),
        (dict(name="resnet10t", kwargs=dict(in_chans=1)), "a setting of its own"),
        (dict(name="resnet10t", pretrained=True, weights="x"), "choose one"),
        (dict(name="resnet10t", std=[1.0, 0.0, 1.0]), "above zero"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        TimmImage(**arguments)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_images_of_another_size_are_refused(kind):
    encoder = make(kind, img_size=32)
    with pytest.raises(UserError, match="takes 32 x 32 pixels, but the images are 16 x 16"):
        encoder(images(16))


def test_unpooled_features_are_refused():
    with pytest.raises(UserError, match="pool"):
        make("resnet", pool="")(images())


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_bf16_autocast_is_finite(kind):
    assert_bf16_is_finite(make(kind), images())


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub with one model, and no network."""
    from huggingface_hub import constants

    net = {"stem_width": 8, "channels": [8, 8, 8, 8]}
    folder = tmp_path / "hub/models--lab--net"
    snapshot = folder / "snapshots/abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("abc")
    config = {"architecture": "resnet10t", "num_features": 8, "model_args": net}
    config["pretrained_cfg"] = {"classifier": "fc", "num_classes": 1000}
    (snapshot / "config.json").write_text(json.dumps(config))
    model = timm.create_model("resnet10t", **net)
    save_file(model.state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return model


def test_model_of_the_hub_is_rebuilt_without_the_hub(hub):
    built = TimmImage("hf-hub:lab/net", pretrained=True)
    weight = built.model.state_dict()["conv1.0.weight"]
    assert torch.equal(weight, hub.state_dict()["conv1.0.weight"])
    arguments = built.rebuild_args()
    assert arguments["name"] == "resnet10t"
    again = TimmImage(**arguments)
    again.load_state_dict(built.state_dict())
    with pytest.raises(UserError, match="timm has no model 'hf-hub:lab/net'"):
        TimmImage("hf-hub:lab/net")


def test_files_are_no_arguments_of_the_model():
    with pytest.raises(UserError, match="'checkpoint_path' is no argument of the model"):
        TimmImage("resnet10t", kwargs={"checkpoint_path": "a.pth"})
