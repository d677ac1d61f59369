import copy

import pytest
import timm
import torch
from encoder_inputs import (
    assert_bf16_is_finite,
    assert_blocks_partition,
    assert_checkpointing_keeps_gradients,
    clips,
)
from safetensors.torch import save_file

from mmlight.encoders.mel import LogMelSettings
from mmlight.encoders.mel_timm import MelTimm
from mmlight.errors import UserError

VIT = dict(embed_dim=16, depth=2, num_heads=2, patch_size=8)
VIT_NAME = "vit_tiny_patch16_224"
MEL = LogMelSettings(n_mels=32)
RESNET = dict(channels=(8, 8, 16, 16), stem_width=8)
CONVNEXT = dict(depths=(1, 1, 2, 1), dims=(8, 8, 16, 16))
MODELS = {
    "vit": (VIT_NAME, dict(frames=64, kwargs=VIT)),
    "resnet": ("resnet10t", dict(kwargs=RESNET)),
    "resnet-fixed": ("resnet10t", dict(frames=64, kwargs=RESNET)),
    "convnext": ("convnext_atto", dict(kwargs=CONVNEXT)),
    "mobilenet-fixed": ("mobilenetv3_small_050", dict(frames=64)),
}


def make(kind, **more):
    name, arguments = MODELS[kind]
    torch.manual_seed(0)
    encoder = MelTimm(name, mel=MEL, **(arguments | more))
    for module in encoder.modules():  # as after some training: padding would not stay zero
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean)
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.uniform_(parameter)
    return encoder


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("pool", ["mean", "max", "attention"])
def test_shapes_and_blocks(kind, pool):
    encoder = make(kind, pool=pool).eval()
    encoded = encoder(clips(), tokens=True)
    assert encoded.pooled_BD.shape == (2, encoder.out_dim)
    assert encoded.tokens_BLD.shape[::2] == (2, encoder.out_dim)
    assert encoded.mask_BL.shape == encoded.tokens_BLD.shape[:2]
    assert_blocks_partition(encoder)
    assert encoder.sample_rate_hz == 16000


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("pool", ["mean", "max", "attention"])
def test_padding_changes_no_clip(kind, pool):
    encoder = make(kind, pool=pool).eval()
    short = encoder(clips()).pooled_BD
    padded = encoder(clips(padded_to=17000)).pooled_BD  # 128 columns for 64
    torch.testing.assert_close(padded, short, atol=1e-5, rtol=1e-5)
    alone = encoder(clips((6400,))).pooled_BD
    torch.testing.assert_close(alone[0], short[0], atol=1e-5, rtol=1e-5)


def test_mask_follows_the_lengths():
    vit = make("vit").eval()(clips((6400, 1600)), tokens=True)
    # 41 and 11 frames in patches of 8 x 8: 6 and 2 of 8 columns, in each of 4 rows.
    assert vit.mask_BL.view(2, 4, 8)[:, :, :].sum(2).tolist() == [[6] * 4, [2] * 4]
    resnet = make("resnet").eval()(clips((6400, 1600)), tokens=True)
    assert resnet.mask_BL.sum(1).tolist() == [2, 1]


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_pooling_counts_real_frames_only(kind):
    encoder = make(kind).eval()
    encoded = encoder(clips((6400, 1600)), tokens=True)
    for row in range(2):
        real = encoded.tokens_BLD[row][encoded.mask_BL[row]]
        torch.testing.assert_close(encoded.pooled_BD[row], real.mean(0))


def test_clips_longer_than_the_frames_are_cut():
    encoder = make("vit").eval()
    pooled = encoder(clips((16000,))).pooled_BD
    cut = clips((16000,))
    cut.waveform_BT[:, 11000:] = 0
    torch.testing.assert_close(encoder(cut).pooled_BD, pooled)


def test_missing_clips_stay_finite():
    assert make("resnet").eval()(clips((6400, 0))).pooled_BD.isfinite().all()
    assert make("vit").eval()(clips((0, 0), padded_to=1)).pooled_BD.isfinite().all()


@pytest.mark.parametrize("kind", ["vit", "resnet", "convnext"])
def test_all_parameters_learn_and_checkpointing_changes_no_gradient(kind):
    encoder = make(kind, pool="attention")
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    assert_checkpointing_keeps_gradients(encoder, clips())


def test_a_deep_copy_has_a_mask_of_its_own():
    encoder = make("resnet").eval()
    double = copy.deepcopy(encoder)
    expected = double(clips()).pooled_BD
    encoder(clips((1600,)))
    torch.testing.assert_close(double(clips()).pooled_BD, expected)
    assert double.time_mask is not encoder.time_mask


def test_weights_for_images_load_into_one_channel(tmp_path):
    source = timm.create_model(VIT_NAME, img_size=32, num_classes=0, **VIT)
    save_file(source.state_dict(), tmp_path / "image.safetensors")
    encoder = make("vit", weights=str(tmp_path / "image.safetensors"))
    torch.testing.assert_close(
        encoder.model.patch_embed.proj.weight, source.patch_embed.proj.weight.sum(1, True)
    )
    assert encoder.model.pos_embed.shape == (1, 33, 16)


def test_rebuild_args_rebuild():
    first = make("vit", pool="attention").eval()
    second = MelTimm(**first.rebuild_args()).eval()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(clips()).pooled_BD, second(clips()).pooled_BD)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(name="resnett18"), "did you mean 'resnet18'"),
        (dict(name=VIT_NAME), "frames: 'vit_tiny_patch16_224' takes"),
        (dict(name=VIT_NAME, frames=50), "32 mel bands x 50 frames do not"),
        (dict(name="resnet10t", pool="sum"), "pool: 'sum'"),
        (
            dict(name="resnet10t", pretrained=True, weights="x"),
            "choose one",
        ),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        MelTimm(mel=MEL, **arguments)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_bf16_autocast_is_finite(kind):
    assert_bf16_is_finite(make(kind), clips())
