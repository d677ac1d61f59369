import io
import json
from pathlib import Path

import pytest
import torch
from multimodal import jpeg, picture
from shard_files import write_tar

from mmlight.data.decode.image import ImageSettings
from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.splits.split import Split
from mmlight.errors import UserError

MEMBERS = Members(image="jpg", boxes="json:boxes", box_labels="json:labels")
FIT = dict(train_crop="random_fit", eval_crop="fit")


def sample(*, size: tuple[int, int] = (40, 30), **members) -> dict[str, bytes]:
    file = io.BytesIO()
    picture(*size).save(file, "JPEG")
    return {"jpg": file.getvalue(), "json": json.dumps(members).encode()}


def module(folder: Path, *samples: dict[str, bytes], image: dict | None = None, **settings):
    path = write_tar(
        folder / "s.tar",
        [(f"{n}.{name}", data) for n, s in enumerate(samples) for name, data in s.items()],
    )
    given = dict(
        members=MEMBERS,
        val=Split(str(path)),
        train=Split(str(path)),
        image=ImageSettings(**({"size": 64} | FIT | (image or {}))),
        global_batch_size=2,
        eval_batch_size=4,
        num_workers=0,
    )
    data = ShardDataModule(**(given | settings))
    data.prepare_data()
    return data


def val_batch(data: ShardDataModule):
    data.setup("validate")
    return next(iter(data.val_dataloader()))


ONE = sample(boxes=[[4, 3, 20, 15]], labels=[1])
TWO = sample(size=(30, 40), boxes=[[0, 0, 30, 40], [3, 4, 6, 8]], labels=[0, 2])
NONE = sample(boxes=[], labels=[])


def test_boxes_and_areas_of_a_batch(tmp_path):
    batch = val_batch(module(tmp_path, ONE, TWO, NONE, {"jpg": jpeg()}))
    assert batch.image.pixels_BCHW.shape == (4, 3, 64, 64)
    assert batch.image.view.area_B2.tolist() == [[48, 64], [64, 48], [48, 64], [48, 64]]
    assert batch.image.view.original_B2.tolist() == [[30, 40], [40, 30], [30, 40], [30, 40]]
    assert batch.boxes.mask_BG.tolist() == [[True, False], [True, True], [False] * 2, [False] * 2]
    assert batch.boxes.present_B.tolist() == [True, True, True, False]
    assert batch.boxes.label_BG.tolist() == [[1, 0], [0, 2], [0, 0], [0, 0]]
    assert torch.allclose(
        batch.boxes.xyxy_BG4[0, 0], torch.tensor([4.0, 3, 20, 15]) * 1.6, atol=1e-4
    )
    back = batch.image.view.restore(batch.boxes.xyxy_BG4)
    assert torch.allclose(back[1], torch.tensor([[0.0, 0, 30, 40], [3, 4, 6, 8]]), atol=1e-4)
    assert not batch.image.pixels_BCHW[0, :, 48:].any()
    assert not batch.image.pixels_BCHW[1, :, :, 48:].any()


def test_padding_to_the_batch_is_as_small_as_whole_multiples_allow(tmp_path):
    image = {"size": 80, "pad_to": "batch"}
    batch = val_batch(module(tmp_path, ONE, NONE, image=image))
    assert batch.image.pixels_BCHW.shape == (2, 3, 64, 96)
    assert batch.image.view.area_B2.tolist() == [[60, 80]] * 2


def test_a_bad_box_is_a_bad_sample(tmp_path):
    bad = sample(boxes=[[9, 9, 9, 12]], labels=[0])
    batch = val_batch(module(tmp_path, ONE, bad))
    assert [(b.key, b.member) for b in batch.bad] == [("1", "json:boxes")]
    assert "no area" in batch.bad[0].reason
    assert batch.valid_B.tolist() == [True, False]
    assert batch.image.view.area_B2[1].tolist() == [64, 64]  # attention needs something


def test_training_batches_come_again_the_same(tmp_path):
    data = module(tmp_path, *[ONE, TWO, NONE, ONE], image={"zoom": (0.5, 2.0)})
    data.setup("fit")
    first, second = (next(iter(data.train_dataloader())) for _ in range(2))
    assert torch.equal(first.image.pixels_BCHW, second.image.pixels_BCHW)
    assert torch.equal(first.boxes.xyxy_BG4, second.boxes.xyxy_BG4)


def test_only_the_first_samples(tmp_path):
    path = str(tmp_path / "s.tar")
    data = module(tmp_path, ONE, TWO, NONE, train=Split(path, limit=2))
    data.setup("fit")
    assert data.num_samples("train") == 2 and data.num_samples("val") == 3
    assert data._samples["train"].corpus.key(1) == "s/1"
    with pytest.raises(UserError, match=r"data\.train\.limit is 4; it must be 1 to 3"):
        module(tmp_path, ONE, TWO, NONE, train=Split(path, limit=4)).setup("fit")


def test_boxes_need_images_that_are_fitted(tmp_path):
    with pytest.raises(UserError, match="eval_crop: fit"):
        val_batch(module(tmp_path, ONE, image={"train_crop": "center", "eval_crop": "center"}))


def test_labels_are_looked_at_before_training(tmp_path):
    (tmp_path / "names").write_text("cat\ndog\n")
    with pytest.raises(UserError, match=r"data\.val: sample .* of .*members\.box_labels: label 2"):
        val_batch(module(tmp_path, ONE, TWO, class_names=str(tmp_path / "names")))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"boxes": "json:boxes"}, "box_labels"),
        ({"box_labels": "json:labels"}, "boxes"),
        ({"image": None, "boxes": "json:b", "box_labels": "json:l"}, "image"),
        ({"boxes": "json:b", "box_labels": "json:l", "box_format": "yxyx"}, "xyxy, xywh"),
    ],
)
def test_members_that_contradict_each_other_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        Members(**({"image": "jpg"} | settings))


def test_a_format_without_boxes_has_no_effect(tmp_path):
    with pytest.raises(UserError, match="box_format has no effect"):
        module(tmp_path, ONE, members=Members(image="jpg", box_format="xywh"))


def test_real_boxes_come_back_as_they_are_stored(shared_data):
    folder = shared_data / "bccd"
    data = ShardDataModule(
        members=MEMBERS,
        val=Split(str(folder / "val")),
        image=ImageSettings(size=160, **FIT, pad_to="batch"),
        class_names=str(folder / "classnames.txt"),
        eval_batch_size=30,
        num_workers=0,
    )
    batch = val_batch(data)
    assert batch.bad == () and batch.image.pixels_BCHW.shape == (30, 3, 128, 160)
    assert int(batch.boxes.mask_BG.sum()) > 300
    back_BG4 = batch.image.view.restore(batch.boxes.xyxy_BG4)
    whole = back_BG4[batch.boxes.mask_BG]
    assert torch.allclose(whole, whole.round(), atol=1e-3)  # they are stored as whole pixels


def test_boxes_of_a_split_that_lacks_a_class_keep_their_classes(tmp_path):
    for split, names in (("train", "ant\nbee\ncat\n"), ("val", "bee\ncat\n")):
        (tmp_path / split).mkdir()
        (tmp_path / split / "classnames.txt").write_text(names)
    wide = [[0, 0, 30, 40], [3, 4, 6, 8]]
    given = sample(size=(30, 40), boxes=wide, labels=[1, "bee"])
    shard = write_tar(tmp_path / "val/0.tar", [(f"0.{name}", data) for name, data in given.items()])
    for class_names in (["ant", "bee", "cat"], ["n1", "bee", "n3"]):
        data = module(tmp_path / "train", TWO, val=Split(str(shard)), class_names=class_names)
        assert val_batch(data).boxes.label_BG.tolist() == [[2, 1]]
    (tmp_path / "val/classnames.txt").write_text("bee\ndog\n")
    said = r"data\.val: sample 0 of .*'dog' in .*no class of training"
    with pytest.raises(UserError, match=said):
        module(tmp_path / "train", TWO, val=Split(str(shard))).setup("validate")
