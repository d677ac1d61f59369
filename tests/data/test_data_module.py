import itertools
import json

import pytest
import torch
from multimodal import Recorder, jpeg, shard, text_only, trainer, with_images
from shard_files import write_tar

from mmlight.data.decode.audio import AudioSettings
from mmlight.data.decode.image import ImageSettings
from mmlight.data.members import Members
from mmlight.data.shards import index_file
from mmlight.data.shards.index import load_or_build
from mmlight.data.splits.split import Split
from mmlight.data.text import TextSettings
from mmlight.errors import UserError
from mmlight.text.saved_tokenizer import tokenizer_from_state
from mmlight.text.tokenizer import ByteTokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    shard(folder / "0.tar", range(12))
    shard(folder / "1.tar", range(12, 20))
    return folder


def refused(data, *, stage: str = "fit") -> str:
    with pytest.raises(UserError) as caught:
        data().setup(stage)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_sample_is_trained_on_and_validated(folder, tmp_path):
    data = text_only(folder, val=Split(str(folder)), eval_batch_size=6)
    model = Recorder()
    trainer(tmp_path, max_epochs=2).fit(model, data)
    assert len(model.trained) == 10
    for epoch in (model.trained[:5], model.trained[5:]):
        assert sorted(itertools.chain(*epoch)) == list(range(20))
    assert model.trained[:5] != model.trained[5:]
    assert model.validated == list(range(20)) * 2
    assert data.num_samples("train") == 20 and set(data.fingerprint()) == {"train", "val"}


def test_training_without_a_validation_split(folder, tmp_path):
    model = Recorder()
    trainer(tmp_path, max_steps=3).fit(model, text_only(folder))
    assert len(model.trained) == 3 and model.validated == []


def test_validation_alone(folder, tmp_path):
    data = text_only(folder, train=None, val=Split(str(folder)))
    model = Recorder()
    trainer(tmp_path).validate(model, data, verbose=False)
    assert model.validated == list(range(20))
    assert data.state_dict() == {}


def test_samples_are_decoded_again_by_number(folder, tmp_path):
    data = text_only(folder, train=None, val=Split(str(folder)), eval_batch_size=6)
    model = Recorder()
    trainer(tmp_path).validate(model, data, verbose=False)
    batch = data.batch_of("val", [13, 2])
    assert batch.index_B.tolist() == [13, 2] and batch.valid_B.all()
    (whole,) = [b for b in data.val_dataloader() if 13 in b.index_B.tolist()]
    row = whole.index_B.tolist().index(13)
    assert batch.keys[0] == whole.keys[row]
    first = [c for c, n in zip(whole.captions, whole.text.item_N.tolist(), strict=True) if n == row]
    again = [c for c, n in zip(batch.captions, batch.text.item_N.tolist(), strict=True) if n == 0]
    assert again == first


def test_shards_that_do_not_exist(folder, tmp_path):
    message = refused(lambda: text_only(folder, train=Split(str(tmp_path / "none-*.tar"))))
    assert "none-*.tar" in message


def test_fewer_samples_than_a_batch(folder):
    message = refused(lambda: text_only(folder, global_batch_size=21))
    assert "20 samples are fewer than one global batch of 21" in message


def test_a_member_nobody_has(folder):
    message = refused(lambda: with_images(folder, members=Members(image="jpeg")))
    assert "members.image" in message and "data.train" in message
    assert "did you mean 'jpg'" in message


def test_a_json_key_nobody_has(folder):
    message = refused(lambda: text_only(folder, members=Members(text="json:caption")))
    assert "'json:caption'" in message and "did you mean 'captions'" in message


def test_the_wrong_members_of_validation_stop_a_fit_before_it_trains(folder):
    val = Split(str(folder), members=Members(text="tx"))
    assert "data.val" in refused(lambda: text_only(folder, val=val))


def test_a_shard_that_comes_twice(folder):
    twice = Split([str(folder / "0.tar"), str(folder / "*.tar")])
    assert "named twice" in refused(lambda: text_only(folder, train=twice))
    mixture = [Split(str(folder / "0.tar")), Split(str(folder / "*.tar"))]
    assert "the same shard comes twice" in refused(lambda: text_only(folder, train=mixture))


def test_a_class_file_shorter_than_the_labels(folder, tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    members = Members(text="txt", label="cls")
    names = str(tmp_path / "names.txt")
    message = refused(lambda: text_only(folder, members=members, class_names=names))
    assert "data.train has label 2, but there are only 2 class names" in message
    (tmp_path / "names.txt").write_text("cat\ndog\n\nowl\n")
    data = text_only(folder, members=members, class_names=names)
    data.setup("fit")
    assert data.class_names == ["cat", "dog", "owl"]


def test_a_class_file_that_is_missing_or_empty(folder, tmp_path):
    missing = str(tmp_path / "none.txt")
    assert "cannot be read" in refused(lambda: text_only(folder, class_names=missing))
    (tmp_path / "empty.txt").write_text("\n")
    empty = str(tmp_path / "empty.txt")
    assert "is empty" in refused(lambda: text_only(folder, class_names=empty))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image": ImageSettings()}, "data.image has no effect"),
        ({"audio": AudioSettings()}, "data.audio has no effect"),
        ({"members": Members(image="jpg")}, "data.text has no effect"),
        ({"text": None}, "data.text is not; give it a tokenizer"),
        ({"samples_per_epoch": 8}, "data.samples_per_epoch has an effect only"),
        ({"train": Split("x", weight=2.0)}, "weight has an effect only"),
        ({"train": [Split("x"), Split("y")], "num_lanes": 2}, "data.num_lanes has no effect"),
        ({"train": None}, "data names no shards"),
        ({"global_batch_size": 0}, "data.global_batch_size is 0"),
        ({"num_workers": -1}, "data.num_workers is -1"),
        ({"max_bad_fraction": 1.5}, "data.max_bad_fraction is 1.5"),
        ({"members": Members(label="cls", class_captions=["a {}"])}, "needs data.class_names"),
    ],
)
def test_settings_without_effect_or_sense(folder, settings, message):
    assert message in refused(lambda: text_only(folder, **settings))


def test_a_stage_without_its_split_names_those_there(folder):
    message = refused(lambda: text_only(folder), stage="test")
    assert "test needs data.test.shards" in message and "there is train" in message


def test_lanes_that_the_ranks_cannot_share(folder):
    data = text_only(folder)
    ranks = {"global_rank": 0, "world_size": 3, "global_step": 0, "num_devices": 1}
    data.trainer = type("Ranks", (), ranks)()
    with pytest.raises(UserError, match="3 ranks can't share"):
        data.setup("fit")


def test_overfit_batches_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="overfit_batches"):
        trainer(tmp_path, max_epochs=2, overfit_batches=1).fit(Recorder(), text_only(folder))


def test_splits_of_a_mixture_have_members_of_their_own(folder, tmp_path):
    pictures = write_tar(tmp_path / "p.tar", [(f"{n}.jpg", jpeg(seed=n)) for n in range(6)])
    data = text_only(
        folder,
        train=[
            Split(str(folder), weight=3.0),
            Split(str(pictures), members=Members(image="jpg")),
        ],
        samples_per_epoch=16,
        image=ImageSettings(size=8),
    )
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert len(batches) == 4
    for batch in batches:  # 3 to 1 in every batch
        assert batch.text.present_N.sum() == 3 and batch.image.present_B.sum() == 1
        assert torch.equal(batch.text.present_N, ~batch.image.present_B)
        assert torch.equal(batch.index_B < 20, batch.text.present_N)
        assert batch.fields["n"].count(None) == 1
    assert data.num_samples("train") == 26


def test_class_names_make_captions(folder, tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\n")
    members = Members(label="cls", class_captions=["a {}", "the {}"])
    data = text_only(
        folder,
        members=members,
        val=Split(str(folder)),
        class_names=str(tmp_path / "names.txt"),
    )
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert batch.captions[:4] == ["a cat", "the cat", "a dog", "the dog"]
    assert batch.label_B.tolist() == [0, 1, 2, 0]


def test_sentences_are_prepared_as_captions_are(folder):
    data = text_only(folder, text=TextSettings(ByteTokenizer(), max_tokens=6, clean="clip"))
    text = data.text_inputs(["A&amp;b", "long sentence"])
    assert data.tokenizer.decode(text.token_ids_NL[0].tolist()) == "a&b"
    assert text.token_ids_NL.shape == (2, 6) and text.present_N.all()


def test_preprocessing_is_plain_and_rebuilds_the_tokenizer(folder):
    data = with_images(
        folder, members=Members(image="jpg", text="txt"), text=TextSettings(ByteTokenizer())
    )
    plain = json.loads(json.dumps(data.preprocessing()))
    assert plain["image"]["size"] == 16 and plain["audio"] is None
    assert plain["text"]["max_tokens"] == 77 and plain["text"]["vocab_size"] == 260
    assert isinstance(tokenizer_from_state(plain["text"]["tokenizer"]), ByteTokenizer)


def test_another_trainer_begins_at_the_beginning(folder, tmp_path):
    data = text_only(folder)
    models = [Recorder(), Recorder()]
    for model in models:
        trainer(tmp_path, max_steps=3).fit(model, data)
    assert models[0].trained == models[1].trained


def test_indexes_are_looked_up_once_for_all_splits(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    shard(folder / "0.tar", range(12))
    load_or_build([folder / "0.tar"])
    opened = []
    read = index_file.read
    monkeypatch.setattr(index_file, "read", lambda *args: opened.append(args) or read(*args))
    shards = str(folder / "*.tar")
    data = text_only(folder, train=Split(shards), val=Split(shards, limit=4))
    trainer(tmp_path, max_epochs=1).fit(Recorder(), data)
    assert len(opened) == 1
