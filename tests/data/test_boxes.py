import pytest
import torch

from mmlight.data.decode.boxes import parse_boxes
from mmlight.errors import UserError


def parse(boxes, labels, **changes):
    settings = dict(box_format="xyxy", class_names=("cat", "dog"), width=40, height=30)
    return parse_boxes(boxes, labels, **(settings | changes))


def test_every_format_gives_corners():
    given = {"xyxy": [4, 6, 10, 20], "xywh": [4, 6, 6, 14], "cxcywh": [7, 13, 6, 14]}
    for box_format, box in given.items():
        boxes = parse([box], [1], box_format=box_format)
        assert boxes.xyxy_N4.tolist() == [[4, 6, 10, 20]], box_format
        assert boxes.label_N.tolist() == [1]


def test_labels_are_numbers_or_names():
    assert parse([[0, 0, 1, 1]] * 2, ["dog", 0]).label_N.tolist() == [1, 0]
    assert parse([[0, 0, 1, 1]], [7], class_names=None).label_N.tolist() == [7]


def test_no_objects_is_an_answer():
    boxes = parse([], [])
    assert boxes.xyxy_N4.shape == (0, 4) and boxes.label_N.shape == (0,)
    assert boxes.label_N.dtype == torch.int64


def test_boxes_are_clipped_to_the_image():
    assert parse([[-5, -5, 50, 12.5]], [0]).xyxy_N4.tolist() == [[0, 0, 40, 12.5]]


@pytest.mark.parametrize("box", [[5, 5, 5, 9], [9, 5, 5, 9], [41, 5, 50, 9]])
def test_a_box_without_area_in_the_image_is_refused(box):
    with pytest.raises(ValueError, match="no area in the image of 40 x 30"):
        parse([[0, 0, 3, 3], box], [0, 0])


@pytest.mark.parametrize(
    ("boxes", "labels", "said"),
    [
        (None, [0], "missing"),
        ([[0, 0, 1, 1]], [0, 1], "1 boxes, but 2 labels"),
        ([[0, 0, 1]], [0], "four numbers"),
        ([[0, 0, 1, "a"]], [0], "four numbers"),
        ([[0, 0, float("nan"), 1]], [0], "four numbers"),
        ([[0, 0, float("inf"), 1]], [0], "four numbers"),
        ([[0, 0, 1e300, 1]], [0], "four numbers"),
        ([[0, 0, 10**400, 1]], [0], "four numbers"),
        ([[0, 0, 1, 1]], [-1], "neither"),
        ([[0, 0, 1, 1]], [10**30], "neither"),
        ([[0, 0, 1, 1]], [True], "neither"),
    ],
)
def test_what_is_no_list_of_boxes_is_a_bad_sample(boxes, labels, said):
    with pytest.raises(ValueError, match=said):
        parse(boxes, labels)


@pytest.mark.parametrize(
    ("label", "names", "said"),
    [
        (2, ("cat", "dog"), "label 2, but there are only 2 class names"),
        ("dgo", ("cat", "dog"), "did you mean 'dog'"),
        ("cat", None, "class_names"),
    ],
)
def test_a_label_without_a_class_is_the_users_mistake(label, names, said):
    with pytest.raises(UserError, match=said):
        parse([[0, 0, 1, 1]], [label], class_names=names)
