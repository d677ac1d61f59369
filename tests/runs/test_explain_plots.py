import numpy as np
import pytest
from PIL import Image

from mmlight.runs.plots.colored_text import ColoredText, _lay_out, plot_colored_texts
from mmlight.runs.plots.examples import Example, image_thumbnail, sound_thumbnail
from mmlight.runs.plots.faithfulness import Curves, plot_faithfulness
from mmlight.runs.plots.labelled import plot_confusion
from mmlight.runs.plots.mistakes import plot_mistakes
from mmlight.runs.plots.overlays import Overlay, _tint, plot_heads, plot_overlays, plot_token_heads

pytestmark = pytest.mark.usefixtures("readable_text")


def drawn(path, *, colours=20):
    image = np.asarray(Image.open(path).convert("RGB"))
    codes = image[::2, ::2].astype(int) @ [1, 256, 65536]
    assert len(np.unique(codes)) > colours
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert (edge == 255).all()
    return image


@pytest.fixture
def generator():
    return np.random.default_rng(0)


@pytest.mark.parametrize("channels", [1, 3])
def test_overlays_of_images(generator, tmp_path, channels):
    picture = generator.integers(0, 255, (32, 32, channels)).astype(np.uint8)
    signed = generator.standard_normal((32, 32))
    coarse = np.zeros((4, 4))
    coarse[1, 2] = 1
    overlay = Overlay("cat (0.9)", "is dog", picture, {"ig": signed, "cam": coarse}, {"ig": "del"})
    drawn(plot_overlays([overlay, overlay], tmp_path / "x.png"))


def test_overlays_of_sounds(generator, tmp_path):
    picture, map_RK = generator.standard_normal((2, 40, 90))
    map_RK[:, 80:] = np.nan
    overlay = Overlay("dog (0.9)", "", picture, {"ig": map_RK, "wave": map_RK[:1]}, {})
    drawn(plot_overlays([overlay], tmp_path / "x.png", seconds=[0.9]))


def test_tint_tells_for_from_against():
    rgba = _tint(np.array([[2.0, 0.0, -1.0, np.nan]]))
    red, none, blue, nothing = rgba[0]
    assert red[0] > red[2] and blue[2] > blue[0]
    assert red[3] == 2 * blue[3] > 0 and none[3] == nothing[3] == 0
    # Attention is above zero everywhere: its least is nothing.
    assert _tint(np.array([[0.5, 0.6]]))[0, 0, 3] == 0
    assert np.isfinite(_tint(np.zeros((2, 2)))).all()


def test_word_pieces_stay_together_and_lines_break_at_spaces():
    pieces = ["", "a", " very", " un", "believ", "able", "!", "  " + "x" * 95, " end", ""]
    values = np.array([np.nan, 0, 1, -2, 0, 0, 0, 0, 4, np.nan])
    boxes = _lay_out(pieces, values)
    assert [b.text for b in boxes[:6]] == ["a", "very", "un", "believ", "able", "!"]
    assert [b.column for b in boxes[:6]] == [0, 2, 7, 9, 15, 19]
    assert [b.line for b in boxes] == [0] * 6 + [1, 2]
    assert [b.value for b in boxes[:3]] == [0, 0.25, -0.5]


def test_colored_texts(tmp_path):
    pieces = ["", "It", " costs", " $5", " a", " day", ""]
    values = {"rollout": np.arange(7.0), "integrated_gradients": np.linspace(-1, 1, 7)}
    text = ColoredText("negative (0.98)  is positive", pieces, values, {"rollout": "del 0.1"})
    image = drawn(plot_colored_texts([text, text], tmp_path / "x.png"))
    red, blue = (image[..., c].astype(int) for c in (0, 2))
    assert ((red - blue) > 60).any() and ((blue - red) > 60).any()


def test_curves_of_faithfulness(tmp_path):
    x = np.linspace(0, 1, 21)
    curves = {"rollout": Curves(x, 1 - x, x), "random": Curves(x, x, x)}
    areas = {f"{m}_{kind}_auc": 0.5 for m in curves for kind in ("deletion", "insertion")}
    path = tmp_path / "x.png"
    drawn(plot_faithfulness(curves, path, metrics=areas, modality="image", num_samples=3))


def test_heads(generator, tmp_path):
    maps = generator.random((12, 12, 16, 16))
    picture = generator.integers(0, 255, (16, 16, 3)).astype(np.uint8)
    drawn(plot_heads(maps, tmp_path / "x.png", picture=picture, is_sound=False, about="cat"))
    drawn(plot_heads(maps[:1, :1], tmp_path / "y.png", picture=maps[0, 0], is_sound=True, about=""))
    pieces = ["", "one", " $", " three", ""]
    drawn(plot_token_heads(maps[0, 0, :4, :5], tmp_path / "z.png", pieces=pieces, about="cat"))


@pytest.mark.parametrize("size", [2, 10, 100])
def test_confusion(generator, tmp_path, size):
    counts = generator.integers(0, 30, (size, size))
    counts[0] = 0  # a class that does not occur
    names = [f"the class number {k}" for k in range(size)] if size < 100 else []
    drawn(plot_confusion(counts, tmp_path / "x.png", class_names=names), colours=4)


def test_mistakes(generator, tmp_path):
    pixels = generator.integers(0, 255, (1, 28, 28)).astype(np.uint8)
    wave = np.sin(np.arange(4000) * 0.3)
    image, sound, text = Example(pixels), Example(None, wave), Example(caption="a $ & b " * 20)
    examples = [image, sound, text] * 3
    said = [{"label": "a long name of a class", "prediction": "b", "confidence": 0.98}] * 9
    path = tmp_path / "x.png"
    drawn(plot_mistakes(examples, said, path, title="9 of 90", sample_rate_hz=8000))
    drawn(plot_mistakes([text], said[:1], tmp_path / "y.png", title="1 of 90"))


def test_thumbnails(generator):
    gray = generator.integers(0, 255, (1, 28, 14)).astype(np.uint8)
    small = image_thumbnail(gray)
    assert small.shape == (96, 48, 3) and set(np.unique(small)) <= set(np.unique(gray))
    assert image_thumbnail(generator.integers(0, 255, (3, 300, 600)).astype(np.uint8)).shape == (
        *(48, 96),
        3,
    )
    tone = sound_thumbnail(np.sin(np.arange(8000) * np.pi / 4))  # an eighth of the sampling rate
    assert tone.shape == (80, 160, 3)
    assert abs(int(tone.sum(2).mean(1).argmax()) - 60) <= 1  # a quarter of the way up
