import numpy as np
import pytest

from mmlight.data.scenes.image import IMAGE_SIZE, draw
from mmlight.data.scenes.scene import SHAPES, Meaning, SceneRandom, Thing, train_meanings

MEANINGS = train_meanings(num_val=1, seed=0)


@pytest.fixture(scope="module")
def scenes():
    made = []
    for sample in range(300):
        draws = SceneRandom(0, split=0, sample=sample)
        meaning = MEANINGS[draws.below(len(MEANINGS))]
        made.append((meaning, draw(meaning, draws)))
    return made


def test_the_relation_can_be_read_off_the_boxes(scenes):
    for meaning, drawn in scenes:
        (ax, ay), (bx, by) = (((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in drawn.boxes)
        along, across = (bx - ax, by - ay) if meaning.relation == 0 else (by - ay, bx - ax)
        assert along > 1.5 * abs(across)


def test_boxes_lie_inside_and_apart(scenes):
    for _, drawn in scenes:
        for x0, y0, x1, y1 in drawn.boxes:
            assert 0 <= x0 < x1 <= IMAGE_SIZE and 0 <= y0 < y1 <= IMAGE_SIZE
            assert min(x1 - x0, y1 - y0) >= 7, "large enough to tell its shape"
        a, b = drawn.boxes
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def _opacity_of_first(meaning, *, sample):
    """Find the first object as what changes when nothing but its colour does."""
    second = Thing(4, meaning.second.shape)
    red, blue = (
        draw(Meaning(Thing(colour, meaning.first.shape), second, meaning.relation), draws)
        for colour in (0, 5)
        for draws in [SceneRandom(0, split=0, sample=sample)]
    )
    assert red.boxes == blue.boxes
    change = np.abs(red.pixels.astype(int) - blue.pixels).sum(axis=2)
    return change / np.percentile(change, 99.8), red.boxes[0]


def test_boxes_are_tight():
    for sample in range(40):
        opacity, box = _opacity_of_first(MEANINGS[sample * 97], sample=sample)
        rows = np.flatnonzero((opacity > 0.5).any(axis=1))
        columns = np.flatnonzero((opacity > 0.5).any(axis=0))
        found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert np.abs(np.array(found) - box).max() <= 1, MEANINGS[sample * 97].transcript


def test_each_shape_fills_its_own_part_of_its_box():
    filled = {}
    for shape, name in enumerate(SHAPES):
        opacity, (x0, y0, x1, y1) = _opacity_of_first(
            Meaning(Thing(0, shape), Thing(0, 1), 0), sample=9
        )
        filled[name] = opacity[y0:y1, x0:x1].clip(0, 1).mean()
        middle = opacity[(y0 + y1) // 2, (x0 + x1) // 2]
        if name != "moon":
            assert (middle < 0.1) == (name == "ring")
    assert 0.7 < filled["circle"] < 0.85
    assert filled["star"] < filled["triangle"] < filled["square"]
    assert filled["moon"] < filled["circle"] - 0.2


def test_a_scene_is_a_pure_function_of_its_meaning_and_draws():
    one, same = (draw(MEANINGS[5], SceneRandom(1, split=0, sample=2)) for _ in range(2))
    other = draw(MEANINGS[5], SceneRandom(1, split=0, sample=3))
    assert np.array_equal(one.pixels, same.pixels) and one.boxes == same.boxes
    assert not np.array_equal(one.pixels, other.pixels)
