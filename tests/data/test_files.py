import json
import os
import pickle

import pytest
from multimodal import encoded, picture
from shard_files import png, sound, write_tar

from mmlight.data.decode.audio import AudioSettings
from mmlight.data.decode.image import ImageSettings
from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.splits.plain_files import FileCorpus, PredictSplit, file_members, find_samples
from mmlight.data.splits.split import Split
from mmlight.data.text import TextSettings
from mmlight.errors import UserError
from mmlight.text.tokenizer import ByteTokenizer


def keys(given, *modalities):
    if not isinstance(given, PredictSplit):
        given = PredictSplit(files=given)
    return [s.key for s in find_samples(given, modalities=modalities, where="data.predict")]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    (folder / "old").mkdir(parents=True)
    for name in ("a10.png", "a9.PNG", "old/b.png"):
        (folder / name).write_bytes(png(8, 8))
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "notes.pdf").write_bytes(b"x")
    return folder


def test_folder_gives_its_files_in_natural_order_and_tells_what_it_leaves(photos, caplog):
    assert keys("photos", "image") == ["photos/a9.PNG", "photos/a10.png", "photos/old/b.png"]
    assert "1 .pdf" in caplog.text
    assert keys(["photos/a10.png", "photos"], "image") == [
        "photos/a10.png", "photos/a9.PNG", "photos/old/b.png",
    ]  # fmt: skip
    assert keys("photos/*.png", "image") == ["photos/a10.png"]


def test_list_is_read_relative_to_itself_and_may_name_what_is_not_there(photos):
    (photos / "list.txt").write_text("# two\na9.PNG\n\ngone.png\n")
    assert keys("photos/list.txt", "image") == ["photos/a9.PNG", "photos/gone.png"]
    assert keys("@photos/list.txt", "image", "text") == ["photos/a9.PNG", "photos/gone.png"]


def test_each_line_of_a_text_file_is_a_sample(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("one\u2028still one\r\n\n two \n", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe\xfa")
    found = find_samples(
        PredictSplit(files=str(path), text="typed"), modalities=["text"], where="data.predict"
    )
    assert [s.key for s in found] == ["text:1", f"{path}:1", f"{path}:3"]
    assert FileCorpus(found).read(1, ["txt"])["txt"].decode().startswith("one\u2028still one")
    assert keys(str(tmp_path / "latin.txt"), "text") == [str(tmp_path / "latin.txt")]


def test_files_of_one_stem_are_one_sample_of_several_modalities(tmp_path):
    for name in ("1.png", "1.wav", "1.txt", "2.wav"):
        (tmp_path / name).write_bytes(b"hello\nthere")
    (tmp_path / "lone.txt").write_text("x\ny\n")
    found = keys(str(tmp_path), "image", "text", "audio")
    assert [key.removeprefix(f"{tmp_path}/") for key in found] == [
        "1", "2.wav", "lone.txt:1", "lone.txt:2",
    ]  # fmt: skip
    (tmp_path / "1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"1\.jpg and .*1\.png are both the image of one sample"):
        keys(str(tmp_path), "image", "audio")


@pytest.mark.parametrize(
    ("given", "modalities", "message"),
    [
        ("photo", ["image"], r"no file or folder 'photo' \(did you mean 'photos'\?\)"),
        ("photos/notes.pdf", ["image"], r"notes\.pdf is none of what this model reads: \.jpg"),
        ("photos", ["audio"], r"holds none of what this model reads: \.flac.*3 \.png|2 \.png"),
        (PredictSplit(text="x"), ["image"], r"this model takes image, not text"),
        ("empty.txt", ["text"], "no text in empty.txt"),
        ("empty.txt", ["image"], "the list empty.txt is empty"),
    ],
)
def test_what_cannot_be_read_is_refused(photos, given, modalities, message):
    (photos.parent / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match=message):
        keys(given, *modalities)


def test_module_batches_files_and_marks_what_a_sample_lacks(tmp_path):
    (tmp_path / "1.png").write_bytes(encoded(picture(), "PNG"))
    (tmp_path / "1.wav").write_bytes(sound(0.1, format="WAV"))
    (tmp_path / "1.txt").write_text("a dog\n")
    (tmp_path / "2.png").write_bytes(b"not a picture")
    data = ShardDataModule(
        # Labels, as the model was trained with, are not asked for.
        members=Members(image="jpg", text="txt", audio="flac", label="cls", fields={"n": "json:n"}),
        predict=PredictSplit(files=str(tmp_path)),
        image=ImageSettings(size=8),
        audio=AudioSettings(sample_rate_hz=8000),
        text=TextSettings(ByteTokenizer()),
        num_workers=1,
    )
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert [key.rpartition("/")[2] for key in batch.keys] == ["1", "2.png"]
    assert batch.valid_B.tolist() == [True, False]
    assert batch.audio.present_B.tolist() == [True, False]
    assert batch.captions[0] == "a dog" and batch.label_B is None and batch.fields == {}
    (bad,) = batch.bad
    assert (bad.index, bad.member) == (1, "png")
    assert "0x" not in bad.reason
    assert len(data.fingerprint()["predict"]) == 64


def test_corpus_survives_the_way_to_a_worker(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"1")
    found = find_samples(PredictSplit(files=str(path)), modalities=["image"], where="")
    corpus = FileCorpus(found)
    other = pickle.loads(pickle.dumps(corpus))
    assert other.read(0, ["png", "jpg"]) == {"png": b"1"}
    assert other.members(0) == {"png": 1} and other.extensions() == {"png": 1} and len(other) == 1
    before = corpus.fingerprint()
    assert other.fingerprint() == before
    path.write_bytes(b"12")
    assert other.fingerprint() != before
    assert file_members(["audio"]).modalities() == ("audio",)


def test_prediction_needs_no_labels_in_shards_either(tmp_path):
    write_tar(tmp_path / "0.tar", [("0.txt", b"hi"), ("0.json", b'{"n": 1}')])
    members = Members(text="txt", label="cls", fields={"n": "json:n", "who": "json:who"})
    given = {"members": members, "text": TextSettings(ByteTokenizer()), "num_workers": 0}
    shards = str(tmp_path / "0.tar")
    data = ShardDataModule(predict=PredictSplit(shards=shards), **given)
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch.label_B is None and batch.fields == {"n": [1]} and batch.captions == ["hi"]
    with pytest.raises(UserError, match=r"members\.label: no sample of data\.test"):
        ShardDataModule(test=Split(shards), **given).setup("test")


def test_a_name_that_is_not_utf8_is_shown_and_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("photos")
    for name in (b"photos/a.png", b"photos/na\xefve.png"):
        with open(name, "wb") as file:
            file.write(png(8, 8))
    found = find_samples(PredictSplit(files="photos"), modalities=["image"], where="files")
    assert [sample.key for sample in found] == ["photos/a.png", "photos/na\\xefve.png"]
    assert FileCorpus(found).read(1, ["png"]) == {"png": png(8, 8)}
    (path,) = [path for path in os.listdir(b"photos") if b"ve.png" in path]
    both = PredictSplit(files=f"photos/{os.fsdecode(path)}", text=["a \udce9"])
    texts = find_samples(both, modalities=["image", "text"], where="files")
    assert FileCorpus(texts).read(0, ["txt"]) == {"txt": b"a ?"}
    assert json.dumps([sample.key for sample in texts], ensure_ascii=False).encode()


def test_lists_with_a_byte_order_mark_name_their_first_file(tmp_path):
    (tmp_path / "a.png").write_bytes(png(8, 8))
    (tmp_path / "list.txt").write_bytes("a.png\r\n".encode("utf-8-sig"))
    assert keys(str(tmp_path / "list.txt"), "image") == [str(tmp_path / "a.png")]
    (tmp_path / "texts.txt").write_text("a b\r\nc\n", "utf-16")
    given = PredictSplit(files=str(tmp_path / "texts.txt"))
    found = find_samples(given, modalities=["text"], where="files")
    assert [sample.text for sample in found] == ["a b", "c"]
