"""Several images of one sample: which are read, and how they are batched."""

import numpy as np
import pytest
import torch
from multimodal import encoded, with_images
from PIL import Image
from shard_files import png, write_tar

from mmlight.data.decode.draw import Draws, evenly_spaced
from mmlight.data.decode.image import ImageSettings
from mmlight.data.members import Members
from mmlight.data.packing.folder import read_folder
from mmlight.data.packing.source import Given
from mmlight.data.packing.write import pack
from mmlight.errors import UserError


def grey(level):
    """A frame that is told by its grey level."""
    return encoded(Image.fromarray(np.full((16, 16, 3), level, np.uint8)), "PNG")


def videos(folder, counts):
    """A shard whose sample n has `counts[n]` frames of levels 0, 1, 2 ...; and one text each."""
    members = []
    for number, count in enumerate(counts):
        # not padded with zeros: the order is that of numbers
        members += [(f"{number}.{place}.png", grey(place)) for place in reversed(range(count))]
        members.append((f"{number}.txt", b"a video"))
    return write_tar(folder / "0.tar", members)


def data(folder, *, frames=4, image="*.png", **more):
    settings = {"image": ImageSettings(size=16, train_crop="squash", frames=frames), **more}
    return with_images(folder, members=Members(image=image), **settings)


def levels(images, row):
    where = [row] if images.pieces is None else (images.pieces.item_N == row).nonzero().flatten()
    return [int(images.pixels_BCHW[place].float().mean()) for place in where]


def test_evaluation_takes_frames_evenly_in_natural_order(tmp_path):
    videos(tmp_path, [12, 3, 1, 0])
    module = data(tmp_path, max_bad_fraction=1.0)
    module.setup("fit")
    batch = module.batch_of("train", [0, 1, 2, 3])
    assert [levels(batch.image, row) for row in range(4)] == [[1, 4, 7, 10], [0, 1, 2], [0], [0]]
    assert batch.image.present_B.tolist() == [True, True, True, False]
    assert batch.image.pieces.most == 4 and batch.size == batch.image.size == 4


def test_training_draws_one_frame_of_each_part(tmp_path):
    videos(tmp_path, [12] * 4)
    module = data(tmp_path)
    module.setup("fit")
    seen = set()
    for epoch in range(6):
        batch = module.train_batches(module._rank())[epoch]
        for row in range(4):
            found = levels(batch.image, row)
            assert [level // 3 for level in found] == [0, 1, 2, 3]
            seen.add(tuple(found))
    assert len(seen) > 4
    again = module.train_batches(module._rank())[5]
    assert torch.equal(again.image.pixels_BCHW, batch.image.pixels_BCHW)


def test_all_frames_of_a_sample_are_cropped_alike(tmp_path):
    same = png(40, 30)
    write_tar(tmp_path / "0.tar", [(f"{n}.{p}.png", same) for n in range(4) for p in range(3)])
    module = with_images(
        tmp_path,
        members=Members(image="*.png"),
        image=ImageSettings(size=16, scale=(0.2, 0.9), flip_probability=0.5, frames=3),
    )
    module.setup("fit")
    pixels = module.train_batches(module._rank())[0].image.pixels_BCHW.view(4, 3, -1)
    assert (pixels == pixels[:, :1]).all()
    assert len({tuple(row.tolist()) for row in pixels[:, 0]}) == 4


def test_a_list_of_members_gives_their_order(tmp_path):
    write_tar(
        tmp_path / "0.tar",
        [
            (f"{n}.{name}.png", grey(level))
            for n in range(4)
            for name, level in (("a", 1), ("b", 2), ("c", 3))
        ],
    )
    module = with_images(
        tmp_path,
        members=Members(image=["c.png", "a.png"]),
        image=ImageSettings(size=16, frames=5),
    )
    module.setup("fit")
    assert levels(module.batch_of("train", [2]).image, 0) == [3, 1]


def test_a_broken_frame_makes_a_bad_sample(tmp_path):
    write_tar(tmp_path / "0.tar", [("0.0.png", grey(1)), ("0.1.png", grey(1)[:40])])
    module = with_images(
        tmp_path,
        members=Members(image="*.png"),
        image=ImageSettings(size=16, frames=2),
        global_batch_size=1,
    )
    module.setup("fit")
    batch = module.batch_of("train", [0])
    assert batch.bad[0].member == "1.png" and not batch.valid_B[0]


@pytest.mark.parametrize(
    ("image", "frames", "message"),
    [
        ("*.png", None, "data.members.image: '*.png' names several images of a sample; say how"),
        ("png", 4, "data.image.frames has no effect: data.members.image names one member"),
        ("*.jpg", 4, "data.members.image: no sample of data.train has a member '*.jpg'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, image, frames, message):
    videos(tmp_path, [2] * 4)
    write_tar(tmp_path / "1.tar", [("x.png", grey(0))])
    with pytest.raises(UserError) as error:
        data(tmp_path, image=image, frames=frames).setup("fit")
    assert message in str(error.value)


@pytest.mark.parametrize("settings", [{"frames": 0}, {"frames": 2, "eval_crop": "fit"}])
def test_impossible_frames_are_refused(settings):
    with pytest.raises(UserError, match=r"image\.frames"):
        ImageSettings(**({"train_crop": "fit"} if "eval_crop" in settings else {}), **settings)


def test_a_pattern_is_for_images_alone():
    with pytest.raises(UserError, match=r"members\.audio: '\*\.flac' must be a plain extension"):
        Members(audio="*.flac")


@pytest.mark.parametrize(("total", "most"), [(0, 3), (3, 3), (4, 3), (1000, 7)])
def test_places_are_spread_over_all_there_are(total, most):
    even = evenly_spaced(total, most)
    drawn = evenly_spaced(total, most, draws=Draws("frames", seed=0, epoch=0, sample=0))
    for places in (even, drawn):
        assert len(set(places)) == len(places) == min(total, most)
        assert places == sorted(places) and all(0 <= place < total for place in places)
    if total > most:
        ends = [even[0], total - 1 - even[-1]]
        assert abs(ends[0] - ends[1]) <= 1  # as far from the start as from the end


def test_a_folder_of_frames_is_packed_as_one_sample(tmp_path):
    for clip in ("walk/a.b", "run/c"):
        folder = tmp_path / "clips" / clip
        folder.mkdir(parents=True)
        for place in (1, 2, 10):
            (folder / f"{place}.png").write_bytes(grey(place))
        (folder / "caption.txt").write_text(f"clip {clip}")
    source = read_folder(
        tmp_path / "clips", Given(), label_from_folder=True, sample_from_folder=True
    )
    pack(source.samples, tmp_path / "shards")
    module = with_images(
        tmp_path / "shards",
        members=Members(image="*.png", label="cls", fields={"text": "caption.txt"}),
        image=ImageSettings(size=16, frames=8),
        global_batch_size=1,
    )
    module.setup("fit")
    batch = module.batch_of("train", [0, 1])
    assert source.class_names == ["run", "walk"] and batch.label_B.tolist() == [0, 1]
    assert batch.keys == ["00000/run/c", "00000/walk/a_b"]
    assert batch.fields["text"] == ["clip run/c", "clip walk/a.b"]
    assert [levels(batch.image, row) for row in range(2)] == [[1, 2, 10]] * 2


def test_a_loose_file_is_no_sample_of_a_folder(tmp_path):
    (tmp_path / "clip").mkdir()
    for name in ("clip/1.png", "2.png"):
        (tmp_path / name).write_bytes(grey(1))
    with pytest.raises(UserError, match=r"2\.png lies in no folder of its own"):
        read_folder(tmp_path, Given(), sample_from_folder=True)
