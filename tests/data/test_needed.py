import io

import numpy as np
import pytest
import soundfile
from multimodal import jpeg
from shard_files import write_tar

from mmlight.data.checks import only_read, what_is_there
from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.splits.split import Split
from mmlight.data.text import TextSettings
from mmlight.errors import UserError
from mmlight.text.tokenizer import ByteTokenizer

ALL = Members(image="jpg", text="txt", text_lines=True, audio="flac", label="cls")


def sound():
    file = io.BytesIO()
    soundfile.write(file, np.zeros(800), 8000, format="FLAC")
    return file.getvalue()


def samples(folder):
    files = [(f"{n}.txt", b"a") for n in range(5)]
    files += [(f"{n}.jpg", jpeg()) for n in range(3)] + [("3.jpg", b"none")]
    files += [(f"{n}.flac", sound()) for n in (0, 4)] + [("3.flac", b"none")]
    return str(write_tar(folder / "s.tar", sorted(files)))


def module(path, members, *, reads=None, **settings):
    data = ShardDataModule(
        members=members, val=Split(path), text=settings.pop("text", None), num_workers=0, **settings
    )
    data.reads = reads
    data.setup("validate")
    return data


def test_a_mapping_keeps_only_what_is_read():
    assert only_read(ALL, ("text",)) == Members(text="txt", text_lines=True, label="cls")
    assert only_read(ALL, ("image", "audio")) == Members(image="jpg", audio="flac", label="cls")
    boxes = Members(image="jpg", boxes="json:b", box_labels="json:l", box_format="xywh")
    assert only_read(boxes, ("image",)) == Members(image="jpg")
    assert only_read(boxes, ("image", "boxes")) == boxes
    named = Members(label="cls", class_captions=["a {}"])
    assert only_read(named, ("image",)) == Members(label="cls")


def test_what_is_not_read_is_neither_decoded_nor_required(tmp_path):
    path = samples(tmp_path)
    members = Members(image="jpg", text="txt", audio="mp3")  # there is no mp3
    text = TextSettings(ByteTokenizer())
    data = module(path, members, reads=("text",), text=text)
    (batch,) = data.val_dataloader()
    assert batch.image is None and batch.audio is None and not batch.bad
    assert batch.text.item_N.shape == (5,)
    data = module(path, members, reads=("image",))  # and no data.text
    (batch,) = data.val_dataloader()
    assert batch.text is None and [bad.member for bad in batch.bad] == ["jpg", ""]
    with pytest.raises(UserError, match=r"data\.members\.audio: no sample of data\.val"):
        module(path, members, text=text)


def test_messages_name_the_split_whose_members_are_wrong(tmp_path):
    path = samples(tmp_path)
    for own, said in (
        (Members(text="text"), r"^data\.val\.members\.text: no sample of data\.val has a member"),
        (Members(text="txt"), r"^data\.val\.members\.text is set, but data\.text is not"),
        (Members(label="cls", class_captions=["a {}"]), r"^data\.val\.members\.label: no sample"),
    ):
        data = ShardDataModule(
            members=Members(image="jpg"), train=Split(path), val=Split(path, members=own)
        )
        with pytest.raises(UserError, match=said):
            data.setup("validate")


def test_the_index_says_what_is_there(tmp_path):
    path = samples(tmp_path)
    members = Members(image=["png", "jpg"], text="txt", audio="flac")
    data = module(path, members, text=TextSettings(ByteTokenizer()))
    there = data.what_is_there()["val"]
    assert there == {"samples": 5, "images": 4, "texts": 5, "sounds": 3, "unreadable": 1}
    assert what_is_there("val", there) == "val 5: 4 images, 5 texts, 3 sounds, 1 unreadable"
    data = module(path, members, reads=("text",), text=TextSettings(ByteTokenizer()))
    assert what_is_there("val", data.what_is_there()["val"]) == "val 5: 5 texts"
