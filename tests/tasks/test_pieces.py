"""Frames of a video and windows of a sound: one vector of all pieces of a sample."""

from dataclasses import replace
from functools import partial

import pytest
import tiny
import torch
from torch.nn.functional import normalize

from mmlight.batch import Audio, Images, Pieces
from mmlight.data.decode.audio import AudioSettings, WindowSettings
from mmlight.data.decode.image import ImageSettings
from mmlight.encoders.timm_image import TimmImage
from mmlight.errors import UserError
from mmlight.objectives.labels import CrossEntropy
from mmlight.tasks.classification import Classification
from mmlight.tasks.mixing import Mixing
from mmlight.tasks.tower import Towers, TowerSettings

COUNTS = [2, 1, 4, 1]


def images(counts=COUNTS, *, seed=0):
    g = torch.Generator().manual_seed(seed)
    shape = (sum(counts), 3, 16, 16)
    pixels = torch.randint(0, 256, shape, generator=g, dtype=torch.uint8)
    return Images(pixels, torch.ones(len(counts), dtype=torch.bool), pieces=Pieces.of(counts))


def sounds(counts=COUNTS, *, seed=0):
    g = torch.Generator().manual_seed(seed)
    length = torch.randint(1000, 4000, (sum(counts),), generator=g)
    wave = 0.1 * torch.randn(sum(counts), 4000, generator=g)
    wave *= torch.arange(4000) < length[:, None]
    here = torch.ones(len(counts), dtype=torch.bool)
    return Audio(wave, length, here, pieces=Pieces.of(counts, length.tolist()))


def exact(**image):
    torch.manual_seed(0)
    return tiny.task(towers=tiny.towers(**image)).eval().double()


def single(inputs):
    """The same pieces, each a sample of its own."""
    here = torch.ones(len(next(inputs.tensors())), dtype=torch.bool)
    return replace(inputs, present_B=here, pieces=None)


@torch.no_grad()
def test_a_video_is_the_mean_of_its_frames():
    tower = exact().tower("image")
    frames = tower(single(images())).split(COUNTS)
    wanted = torch.stack([part.mean(0) for part in frames])
    assert (tower(images()) - wanted).abs().max() < 1e-10


@torch.no_grad()
def test_a_sound_is_the_mean_of_its_windows_by_their_length():
    tower = exact().tower("audio")
    audio = replace(sounds(), waveform_BT=sounds().waveform_BT.double())
    parts = zip(tower(single(audio)).split(COUNTS), audio.length_B.split(COUNTS), strict=True)
    wanted = torch.stack([(x * n[:, None]).sum(0) / n.sum() for x, n in parts])
    assert (tower(audio) - wanted).abs().max() < 1e-10


@torch.no_grad()
@pytest.mark.parametrize("pieces", ["mean", "attention"])
def test_a_batch_of_differing_counts_equals_one_by_one(pieces):
    task = exact(pieces=pieces)
    together = task.encode("image", images())
    alone = torch.cat([task.encode("image", images().rows(n, n + 1)) for n in range(len(COUNTS))])
    torch.testing.assert_close(together, alone)
    assert torch.equal(task.encode("image", images()), together)


@torch.no_grad()
def test_one_piece_each_is_as_without_pieces():
    tower = exact().tower("image")
    assert Pieces.of([1, 1, 1]) is None
    plain = images([1, 1, 1])
    few = replace(plain, pieces=Pieces(torch.arange(3), torch.ones(3), 1))
    assert torch.equal(tower(few), tower(plain))


def test_gradients_reach_each_frame_by_its_share():
    task = exact()
    tower = task.tower("image")
    wanted, found = (
        torch.autograd.grad(out.square().sum(), list(tower.parameters()))
        for out in (
            torch.stack([part.mean(0) for part in tower(single(images())).split(COUNTS)]),
            tower(images()),
        )
    )
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_chunks_of_a_large_batch_hold_whole_samples():
    batch = replace(tiny.batch(4), image=images(), audio=sounds())
    losses, gradients = [], []
    for grad_cache in (None, 2):
        torch.manual_seed(0)
        task = tiny.task(grad_cache=grad_cache).eval()
        loss = task.loss(batch).value
        loss.backward()
        losses.append(loss)
        gradients.append([p.grad for p in task.parameters()])
    torch.testing.assert_close(losses[0], losses[1])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_a_checkpoint_brings_its_attention_over_frames():
    from mmlight.saved.checkpoint import Saved
    from mmlight.tasks.load import build_task

    task = exact(pieces="attention").float()
    again = build_task(Saved(task.rebuild_description(), None, task.state_dict()))
    assert again.tower("image").piece_pool.kind == "attention"
    assert torch.equal(again.encode("image", images()), task.encode("image", images()))
    assert again.tower("audio").piece_pool.kind == "mean"


def classifier(**settings):
    encoder = partial(TimmImage, "vit_tiny_patch16_224", img_size=16, kwargs=tiny.VIT)
    towers = Towers(image=TowerSettings(encoder=encoder, pieces=settings.pop("pieces", None)))
    objective = partial(CrossEntropy)
    return Classification(towers=towers, num_classes=3, objective=objective, **settings)


class Data:
    """What a task asks a data module about pieces."""

    def __init__(self, *, frames=None, windows=None):
        self.image = ImageSettings(size=16, frames=frames)
        self.audio = AudioSettings(windows=windows)


@torch.no_grad()
def test_a_classifier_takes_videos():
    task = classifier()
    task.configure_model()
    task.eval().check_pieces(Data(frames=4))
    batch = replace(tiny.batch(4), image=images(), text=None, audio=None)
    outputs = task.head_outputs(task.features(batch))
    pooled = task.tower("image").encoder(single(images())).pooled_BD.split(COUNTS)
    wanted = task.head(torch.stack([part.mean(0) for part in pooled]))
    torch.testing.assert_close(outputs, wanted)


@pytest.mark.parametrize(
    ("settings", "data", "message"),
    [
        ({"votes": True}, Data(frames=2), "data.image.frames: Classification, as it is set here"),
        ({"mixing": Mixing(mixup_alpha=0.2)}, Data(frames=2), "can't be mixed"),
        ({"pieces": "attention"}, Data(), "image.pieces has no effect without data.image.frames"),
    ],
)
def test_what_is_not_pooled_is_refused(settings, data, message):
    task = classifier(**settings)
    task.configure_model()
    with pytest.raises(UserError) as error:
        task.check_pieces(data)
        task.check_pools(data)
    assert message in str(error.value)


def test_windows_of_evaluation_may_go_with_mixing():
    task = classifier(mixing=Mixing(mixup_alpha=0.2))
    task.configure_model()
    task.check_pieces(Data(windows=WindowSettings()))


def test_texts_have_no_pieces():
    towers = tiny.towers()
    towers.text.pieces = "mean"
    with pytest.raises(UserError, match=r"towers\.text\.pieces has no effect"):
        tiny.task(towers=towers)


@torch.no_grad()
def test_what_is_explained_or_shown_is_the_first_piece():
    from mmlight.insight.subject import repeat

    batch = replace(tiny.batch(4), image=images(), audio=sounds())
    copies = repeat(batch.rows(0, 2), 3)
    assert torch.equal(copies.image.pixels_BCHW, images().pixels_BCHW[:1].expand(3, -1, -1, -1))
    assert copies.image.pieces is None and copies.audio.pieces is None
    assert normalize(exact().tower("image")(copies.image)).shape == (3, 8)
