import numpy as np
import pytest
from PIL import Image

from mmlight.runs.plots.canvas import COLORS, new_figure, save, wrap
from mmlight.runs.plots.curves import plot_curves, smooth
from mmlight.runs.plots.examples import (
    Example,
    Found,
    Retrieval,
    plot_retrieval,
    plot_spectrograms,
    spectrogram_db,
)
from mmlight.runs.plots.joint_space import plot_joint_space, plot_similarity, project

pytestmark = pytest.mark.usefixtures("readable_text")

COLOURS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 80, 230)}
RATE_HZ = 8000


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def rows():
    generator = np.random.default_rng(0)
    found = []
    for step in range(10, 2001, 10):
        row = {"step": step, "epoch": 0, "samples": step * 64, "wall_s": step / 10}
        row["train/loss"] = 5 * np.exp(-step / 600) + 0.3 * generator.random()
        row["train/samples_per_s"] = 500 + 30 * generator.standard_normal()
        if step % 200 == 0:
            row["val/loss"] = 5 * np.exp(-step / 700) + 0.4
            for i, pair in enumerate(
                ["image_to_text", "text_to_image", "image_to_audio", "audio_to_image"]
            ):
                row[f"val/{pair}/recall_at_1"] = (1 - np.exp(-step / 800)) * (0.8 - 0.1 * i)
                row[f"val/{pair}/chance_recall_at_1"] = 1 / 256
            row["val/zero_shot/image_accuracy_at_1"] = 1 - np.exp(-step / 500)
        found.append(row)
    found[3]["train/loss"] = "nan"
    return found


def looks_drawn(path, *, colours=20):
    image = np.asarray(Image.open(path).convert("RGB"))
    codes = image[::3, ::3].astype(int) @ [1, 256, 65536]
    assert len(np.unique(codes)) > colours
    # Nothing is cut off: the outermost pixels are background.
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert (edge == 255).all()


def examples(generator):
    return [
        Example(
            pixels_CHW=np.clip(
                np.array(rgb)[:, None, None] + generator.integers(-20, 20, (3, 32, 32)), 0, 255
            ).astype(np.uint8),
            caption=f"a {name} square that costs $5 or $6, seen from above on a sunny afternoon",
        )
        for name, rgb in COLOURS.items()
    ]


def tone(hz, seconds=0.5):
    return np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE_HZ)) / RATE_HZ).astype(np.float32)


def test_curves(tmp_path):
    looks_drawn(plot_curves(rows(), tmp_path / "curves.png"))
    assert plot_curves([{"step": 1, "lr": 0.1}], tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()


def test_same_numbers_give_the_same_bytes(tmp_path):
    log = [row for row in rows() if "val/loss" not in row][:5]
    first = plot_curves(log, tmp_path / "a.png").read_bytes()
    assert first == plot_curves(log, tmp_path / "b.png").read_bytes()


def test_smoothing_keeps_a_constant_and_passes_nan_over():
    values = np.full(100, 2.0)
    values[50] = np.nan
    np.testing.assert_allclose(smooth(values), 2.0)


def test_similarity_puts_a_class_together(tmp_path, generator):
    centres = unit(generator.standard_normal((4, 16)))
    labels = np.arange(24) % 4
    a = unit(centres[labels] + 0.1 * generator.standard_normal((24, 16)))
    b = unit(centres[labels] + 0.1 * generator.standard_normal((24, 16)))
    path = plot_similarity(
        a,
        b,
        tmp_path / "s.png",
        query="image",
        gallery="text",
        labels_N=labels,
        captions=[f"a picture of thing number {i} with $x" for i in labels],
    )
    looks_drawn(path)
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    red = (image[..., 0] - image[..., 2] > 120).sum()
    plain = plot_similarity(a, b, tmp_path / "p.png", query="image", gallery="text")
    assert red > 1000 and plain.exists()


def test_retrieval_frames_tell_hit_from_miss(tmp_path, generator):
    pictures = examples(generator)
    found = [
        Found(pictures[0], 0.93, "own"),
        Found(pictures[1], 0.51, "class"),
        Found(pictures[2], -0.2, "other"),
    ]
    queries = [Retrieval(Example(caption="a red square"), found)]
    queries.append(Retrieval(Example(waveform_T=tone(440), caption="red"), found))
    path = plot_retrieval(
        queries,
        tmp_path / "r.png",
        query="text",
        gallery="image",
        num_gallery=64,
        sample_rate_hz=RATE_HZ,
    )
    looks_drawn(path)
    image = np.asarray(Image.open(path).convert("RGB"))
    for colour in ((0, 158, 115), (230, 159, 0), (196, 78, 82)):
        assert (np.abs(image.astype(int) - colour).max(-1) < 8).sum() > 300


def test_spectrogram_finds_the_pitch():
    power = spectrogram_db(tone(1000), num_fft=256)
    assert power.shape[0] == 129 and power.max() == 0 and power.min() >= -80
    assert power.mean(1).argmax() == round(1000 / (RATE_HZ / 256))
    assert (spectrogram_db(np.zeros(10), num_fft=512) == -80).all()


def test_spectrograms_of_odd_number_and_empty_sound(tmp_path):
    sounds = [Example(waveform_T=tone(300 * i), caption=f"tone {i} " * 9) for i in (1, 2, 3)]
    sounds.append(Example(waveform_T=np.zeros(0, np.float32), caption="silence"))
    looks_drawn(plot_spectrograms(sounds, tmp_path / "s.png", sample_rate_hz=RATE_HZ))
    looks_drawn(plot_spectrograms(sounds[:1], tmp_path / "one.png"))


def test_joint_space_groups_what_is_alike_and_repeats(tmp_path, generator):
    centres = unit(generator.standard_normal((3, 16)))
    labels = np.arange(30) % 3
    names = ("image", "text", "audio")
    features = {n: unit(centres[labels] + 0.1 * generator.standard_normal((30, 16))) for n in names}
    items = {n: np.arange(30) for n in names}
    path = plot_joint_space(
        features,
        items,
        tmp_path / "j.png",
        labels={n: labels for n in names},
        class_names=list(COLOURS),
    )
    looks_drawn(path)
    plot_joint_space(features, items, tmp_path / "p.png", method="pca")
    flat = np.concatenate(list(features.values()))
    for method in ("pca", "tsne"):
        plane = project(flat, method=method)
        np.testing.assert_array_equal(plane, project(flat, method=method))
        group = np.tile(labels, 3)
        middle = np.stack([plane[group == g].mean(0) for g in range(3)])
        nearest = np.linalg.norm(plane[:, None] - middle, axis=-1).argmin(1)
        assert (nearest == group).mean() > 0.95


def test_long_captions_are_shortened():
    text = wrap("word " * 50, width=20, lines=2)
    assert len(text.splitlines()) == 2 and text.endswith("...")


def test_lines_keep_their_colours_beside_photographs(tmp_path):
    figure = new_figure(width=8, height=8)
    axes = figure.subplots()
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    axes.imshow(noise // np.uint8(4) + np.uint8(150), extent=(0, 100, 100, 0))
    for height, color in enumerate(COLORS):
        axes.axhline(10 * height + 5, color=color, linewidth=2, snap=True)
    pixels = np.asarray(Image.open(save(figure, tmp_path / "a.png")).convert("RGB"))
    there = {tuple(pixel) for pixel in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}
    for color in COLORS:
        assert tuple(bytes.fromhex(color[1:])) in there
