"""Images without their finest detail, in training alone."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mmlight.data.decode.draw import Draws
from mmlight.data.decode.image import ImageSettings, load_image
from mmlight.errors import UserError

FINE = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)  # a chessboard of single pixels


def png():
    file = io.BytesIO()
    Image.fromarray(FINE).save(file, "PNG")
    return file.getvalue()


def loaded(sample=0, *, draws=True, **settings):
    given = ImageSettings(size=32, channels=1, train_crop="squash", eval_crop="squash", **settings)
    drawn = Draws("image", seed=0, epoch=0, sample=sample) if draws else None
    return load_image(png(), given, draws=drawn).float()


def test_detail_is_gone_as_far_as_the_drawn_factor_says():
    spread = [float(loaded(sample, soften=3.0).std()) for sample in range(20)]
    assert min(spread) < 20 and max(spread) > 30
    assert torch.equal(loaded(3, soften=3.0), loaded(3, soften=3.0))


def test_noise_is_as_strong_as_drawn():
    grey = [float((loaded(sample, noise=0.2) - loaded()).abs().mean()) for sample in range(20)]
    assert 0 < min(grey) < max(grey) < 30 and len(set(grey)) == 20


def test_evaluation_sees_images_as_they_are():
    assert torch.equal(loaded(draws=False, soften=3.0, noise=0.5), loaded())


@pytest.mark.parametrize("settings", [{"soften": 0.5}, {"noise": -0.1}])
def test_values_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match="image"):
        ImageSettings(**settings)
