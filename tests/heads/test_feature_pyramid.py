import pytest
import torch

from mmlight.errors import UserError
from mmlight.heads.feature_pyramid import FeaturePyramid, real_masks

WHOLE = torch.tensor([[64, 96]] * 2)


def maps(dims, strides):
    return [torch.randn(2, d, 64 // s, 96 // s) for d, s in zip(dims, strides, strict=True)]


def test_masks_are_true_where_a_centre_is_real():
    (mask_BHW,) = real_masks(torch.tensor([[32, 32], [20, 12]]), [(4, 4)], [8])
    assert mask_BHW[0].all()
    # centres at 4, 12, 20, 28: rows below 20, columns below 12
    assert mask_BHW[1].tolist() == [[True, False, False, False]] * 2 + [[False] * 4] * 2


@pytest.mark.parametrize(
    ("dims", "in_strides", "strides"),
    [
        ((4, 6, 8, 8), (4, 8, 16, 32), (8, 16, 32)),
        ((4, 6, 8, 8), (4, 8, 16, 32), (4, 8)),
        ((4, 6, 8, 8), (4, 8, 16, 32), (16, 32, 64)),
        ((12,), (16,), (4, 8, 16, 32)),
        ((12,), (16,), (16, 32, 64)),
    ],
)
def test_every_level_has_the_width_and_stride_asked_for(dims, in_strides, strides):
    pyramid = FeaturePyramid(dims, in_strides=in_strides, strides=strides, dim=8)
    given = dict(zip(in_strides, maps(dims, in_strides), strict=True))
    levels = pyramid([given[stride] for stride in pyramid.uses], WHOLE)
    # a last half position counts as one
    assert [tuple(level.shape) for level in levels] == [
        (2, 8, -(-64 // s), -(-96 // s)) for s in strides
    ]
    sum(level.sum() for level in levels).backward()
    assert all(p.grad is not None for p in pyramid.parameters())


@pytest.mark.parametrize(("dims", "in_strides"), [((4, 6, 8), (8, 16, 32)), ((12,), (16,))])
def test_what_lies_in_the_padding_changes_nothing(dims, in_strides):
    pyramid = FeaturePyramid(dims, in_strides=in_strides, strides=(8, 16, 32), dim=8)
    area_B2 = torch.tensor([[64, 96], [32, 64]])
    given = maps(dims, in_strides)
    spoiled = [part.clone() for part in given]
    for part, stride in zip(spoiled, in_strides, strict=True):
        part[1, :, 32 // stride :] = 1e3
        part[1, :, :, 64 // stride :] = -1e3
    for one, other in zip(pyramid(given, area_B2), pyramid(spoiled, area_B2), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("in_strides", "strides", "said"),
    [
        ((8, 16), (8, 32), "double"),
        ((8, 16), (4, 8), "begin with one of these"),
        ((14,), (8, 16), "power of two"),
    ],
)
def test_strides_that_cannot_be_made_are_refused(in_strides, strides, said):
    with pytest.raises(UserError, match=said):
        FeaturePyramid([4] * len(in_strides), in_strides=in_strides, strides=strides, dim=8)
