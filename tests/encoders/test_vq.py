"""Tokenizers of images and of sounds: codes and back."""

import pytest
import torch

from mmlight.batch import Audio, Images
from mmlight.encoders.mel import LogMelSettings
from mmlight.encoders.vq_image import VqImage
from mmlight.encoders.vq_mel import VqMel
from mmlight.errors import UserError

HERE = torch.ones(3, dtype=torch.bool)
IMAGES = Images(torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8), HERE)
SOUNDS = Audio(0.1 * torch.randn(3, 4000), torch.tensor([4000, 2000, 0]), HERE)
MEL = LogMelSettings(sample_rate_hz=8000, n_mels=16)


def image(**settings):
    given = {"size": 16, "grid": 4, "num_codes": 8, "code_dim": 4, "channels": 4} | settings
    return VqImage(**given)


def mel(**settings):
    given = {"mel": MEL, "frames": 40, "num_codes": 8, "code_dim": 4, "channels": 4} | settings
    return VqMel(**given)


CASES = pytest.mark.parametrize(
    ("make", "inputs", "shape", "grid"),
    [(image, IMAGES, (3, 3, 16, 16), (4, 4)), (mel, SOUNDS, (3, 1, 16, 40), (4, 10))],
)


@CASES
def test_codes_bring_back_what_training_saw(make, inputs, shape, grid):
    torch.manual_seed(0)
    encoder = make().train()
    encoder.rebuild(inputs)
    encoder.eval()
    rebuilt = encoder.rebuild(inputs)
    assert encoder.grid == grid
    assert (
        tuple(rebuilt.values_BCHW.shape) == shape == tuple(encoder.wanted(inputs).values_BCHW.shape)
    )
    assert torch.equal(rebuilt.codes_BL, encoder.codes(inputs))
    torch.testing.assert_close(encoder.decode(rebuilt.codes_BL), rebuilt.values_BCHW)
    encoded = encoder(inputs, tokens=True)
    assert encoded.pooled is None
    assert torch.equal(encoded.tokens_BLD, encoder.vectors(rebuilt.codes_BL))


@CASES
def test_evaluation_leaves_the_codebook_alone(make, inputs, shape, grid):
    encoder = make().train()
    encoder.rebuild(inputs)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.eval().rebuild(inputs)
    assert all(torch.equal(before[name], t) for name, t in encoder.state_dict().items())


@CASES
def test_gradients_pass_through_the_codes(make, inputs, shape, grid):
    encoder = make().train()
    encoder.rebuild(inputs).values_BCHW.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


@CASES
def test_recomputed_layers_have_the_same_gradients(make, inputs, shape, grid):
    encoder = make()
    grads = []
    for recomputes in (False, True):
        again = make().train()
        again.load_state_dict(encoder.state_dict())
        again.set_checkpointing(recomputes)
        again.rebuild(inputs).values_BCHW.square().mean().backward()
        grads.append([p.grad for p in again.parameters()])
    torch.testing.assert_close(*grads)


@CASES
def test_its_arguments_rebuild_it_and_its_blocks_hold_it(make, inputs, shape, grid):
    encoder = make()
    again = type(encoder)(**encoder.rebuild_args())
    again.load_state_dict(encoder.state_dict())
    owned = [p for block in encoder.blocks() for m in block.modules for p in m.parameters()]
    assert len(owned) == len(list(encoder.parameters())) == len({id(p) for p in owned})
    patches = encoder.patches()
    assert tuple(patches.shape) == (8, shape[1], 4, 4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: image(grid=5), "grid: 5 must divide the size 16"),
        (lambda: image(size=24, grid=4), "each code stands for 6 places"),
        (lambda: image(num_codes=1), "num_codes: 1 must be 2 or more"),
        (lambda: image(decay=1.0), "decay: 1.0 must be"),
        (lambda: mel(frames=42), "stride: 4 must divide both the 42 frames and the 16 mel"),
        (lambda: image(in_chans=1).codes(IMAGES), "the data has 3 x 16 x 16"),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(make, said):
    with pytest.raises(UserError, match=said) as refused:
        make()
    assert "\n" not in str(refused.value)


def test_a_sound_is_silence_behind_its_end():
    wanted = mel().wanted(SOUNDS)
    assert wanted.real_BHW.sum(2)[:, 0].tolist() == [40, 26, 1]
    assert not wanted.values_BCHW[1, :, :, 26:].any()
