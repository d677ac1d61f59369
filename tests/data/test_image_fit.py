import pytest
import torch

from mmlight.batch import View
from mmlight.data.decode.boxes import BoxSet
from mmlight.data.decode.draw import Draws
from mmlight.data.decode.image import ImageSettings, fit_image
from mmlight.data.decode.image_fit import fit_size, jitter_color
from mmlight.errors import UserError

BOXES = [[30, 20, 60, 50], [80, 10, 120, 40], [10, 60, 50, 100]]


def blocks() -> tuple[torch.Tensor, BoxSet]:
    """Black, with one full channel in each of three boxes."""
    pixels_CHW = torch.zeros(3, 120, 160, dtype=torch.uint8)
    for channel, (left, top, right, bottom) in enumerate(BOXES):
        pixels_CHW[channel, top:bottom, left:right] = 255
    boxes_N4 = torch.tensor(BOXES)
    return pixels_CHW, BoxSet(boxes_N4.float(), torch.arange(3), boxes_N4.double())


def settings(**changes) -> ImageSettings:
    given = dict(
        size=80,
        train_crop="random_fit",
        eval_crop="fit",
        zoom=(0.6, 2.0),
        flip_probability=0.5,
        vertical_flip_probability=0.5,
    )
    return ImageSettings(**(given | changes))


def draws(epoch: int) -> Draws:
    return Draws("image", seed=0, epoch=epoch, sample=0)


def seen(pixels_CHW: torch.Tensor, channel: int) -> list[int] | None:
    rows, columns = (pixels_CHW[channel] > 127).nonzero(as_tuple=True)
    if not len(rows):
        return None
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def test_fitting_keeps_the_proportions():
    assert fit_size(480, 640, size=320) == (240, 320)
    assert fit_size(640, 480, size=320) == (320, 240)
    assert fit_size(1, 20_000, size=64) == (1, 64)
    pixels_CHW, boxes = blocks()
    fitted = fit_image(pixels_CHW, boxes, settings(), draws=None)
    assert fitted.pixels_CHW.shape == (3, 60, 80) and fitted.original == (120, 160)
    assert fitted.to_original == (2, 2, 0, 0)
    assert torch.equal(fitted.boxes.xyxy_N4, boxes.xyxy_N4 / 2)


def test_boxes_stay_on_what_they_are_around():
    pixels_CHW, boxes = blocks()
    counts = []
    for epoch in range(60):
        fitted = fit_image(pixels_CHW, boxes, settings(), draws=draws(epoch))
        height, width = fitted.pixels_CHW.shape[1:]
        assert height <= 60 and width <= 80
        left = dict(zip(fitted.boxes.label_N.tolist(), fitted.boxes.xyxy_N4.tolist(), strict=True))
        counts.append(len(left))
        for label, box in left.items():
            found = seen(fitted.pixels_CHW, label)
            assert found == pytest.approx(box, abs=1.01)
            assert 0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height
        for label in {0, 1, 2} - set(left):  # little of it is left
            found = seen(fitted.pixels_CHW, label)
            scale = abs(fitted.to_original[0] * fitted.to_original[1])
            area = (BOXES[label][2] - BOXES[label][0]) * (BOXES[label][3] - BOXES[label][1])
            if found is not None:
                there = (found[2] - found[0]) * (found[3] - found[1]) * scale
                assert there < 0.25 * area + 2 * (found[2] - found[0] + found[3] - found[1]) * scale
    assert min(counts) < 3 and max(counts) == 3


def test_views_lead_back_to_the_original():
    pixels_CHW, boxes = blocks()
    for epoch in range(20):
        # without a cut, so that every box is whole
        fitted = fit_image(pixels_CHW, boxes, settings(zoom=(0.5, 1.0)), draws=draws(epoch))
        view = View(
            torch.tensor([fitted.pixels_CHW.shape[1:]]),
            torch.tensor([fitted.original]),
            torch.tensor([fitted.to_original]),
        )
        back = view.restore(fitted.boxes.xyxy_N4[None])[0]
        assert torch.allclose(back, boxes.xyxy_N4, atol=1e-3)


def test_restored_boxes_end_at_the_image():
    view = View(
        torch.tensor([[60, 80]]), torch.tensor([[120, 160]]), torch.tensor([[2.0, 2.0, 0.0, 0.0]])
    )
    assert view.restore(torch.tensor([[[-3.0, 5, 90, 70]]])).tolist() == [[[0, 10, 160, 120]]]


def test_views_depend_on_seed_epoch_and_sample_alone():
    pixels_CHW, boxes = blocks()
    first, again, other = (
        fit_image(pixels_CHW, boxes, settings(color_jitter=0.3), draws=draws(epoch))
        for epoch in (3, 3, 4)
    )
    assert torch.equal(first.pixels_CHW, again.pixels_CHW)
    assert torch.equal(first.boxes.xyxy_N4, again.boxes.xyxy_N4)
    assert first.to_original == again.to_original != other.to_original


def test_zooms_are_spread_evenly_in_their_logarithm():
    pixels_CHW, _ = blocks()
    scales = [
        2 / abs(fit_image(pixels_CHW, None, settings(), draws=draws(e)).to_original[0])
        for e in range(400)
    ]
    zoom = torch.tensor(scales)
    assert 0.59 < zoom.min() < 0.63 and 1.9 < zoom.max() < 2.02
    assert abs(zoom.log().mean() - torch.tensor([0.6, 2.0]).log().mean()) < 0.05


def test_color_jitter_changes_pixels_in_training_alone():
    pixels_CHW = torch.randint(0, 256, (3, 20, 20), dtype=torch.uint8)
    assert not torch.equal(jitter_color(pixels_CHW, 0.3, draws=draws(0)), pixels_CHW)
    jittered = ImageSettings(size=20, train_crop="fit", eval_crop="fit", color_jitter=0.3)
    plain = fit_image(pixels_CHW, None, jittered, draws=None).pixels_CHW
    assert torch.equal(plain, pixels_CHW)
    trained = fit_image(pixels_CHW, None, jittered, draws=draws(0)).pixels_CHW
    assert not torch.equal(trained, pixels_CHW)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train_crop": "fit", "eval_crop": "center"}, "other shapes"),
        ({"eval_crop": "fit"}, "other shapes"),
        ({"pad_to": "batch"}, "pad_to has no effect"),
        ({"zoom": (0.5, 1.0)}, "zoom has no effect"),
        ({"vertical_flip_probability": 0.5}, "vertical_flip_probability has no effect"),
        ({"train_crop": "random_fit", "eval_crop": "fit", "zoom": (2, 1)}, "zoom"),
        ({"color_jitter": 1.0}, "color_jitter"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        ImageSettings(**given)
