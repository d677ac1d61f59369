"""Labels mean the same class in every split, as numbers and as names."""

import json
from pathlib import Path

import pytest
from pack_data import pack_folder
from shard_files import write_tar

from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.splits.plain_files import PredictSplit
from mmlight.data.splits.split import Split
from mmlight.data.text import TextSettings
from mmlight.errors import UserError
from mmlight.text.tokenizer import ByteTokenizer

MEMBERS = Members(text="txt", label="cls")


def folder_of(path, *classes, count=2):
    """Pack a folder for each class, in which every text says its class."""
    for name in classes:
        (path / "files" / name).mkdir(parents=True)
        for number in range(count):
            (path / "files" / name / f"{number}.txt").write_text(name)
    pack_folder(path / "files", path / "shards", label_from_folder=True)
    return str(path / "shards")


def shard_of(path, labels, *, member="cls"):
    members = []
    for number, label in enumerate(labels):
        data = json.dumps({"l": label}).encode() if member == "json" else str(label).encode()
        members += [(f"{number}.txt", str(label).encode()), (f"{number}.{member}", data)]
    return str(write_tar(path, members))


def data_of(members=MEMBERS, **settings):
    splits = {
        name: Split(settings.pop(name))
        for name in ("train", "val", "test")
        if isinstance(settings.get(name), str)
    }
    return ShardDataModule(
        members=members,
        text=TextSettings(ByteTokenizer()),
        **splits,
        **{"global_batch_size": 1, "eval_batch_size": 50, "num_workers": 0} | settings,
    )


def labels(data, split):
    """Return the label that each text has."""
    found = {}
    for batch in data.eval_loader(split):  # of each source its own
        found |= dict(zip(batch.captions, batch.label_B.tolist(), strict=True))
    return found


@pytest.mark.parametrize("names", [None, ["ant", "bee", "cat", "dog"], ["n1", "n2", "n3", "n4"]])
def test_a_class_that_a_split_lacks_renumbers_no_other(tmp_path, capsys, names):
    train = folder_of(tmp_path / "train", "ant", "bee", "cat", "dog")
    val = folder_of(tmp_path / "val", "bee", "dog")
    data = data_of(train=train, val=val, class_names=names)
    assert labels(data, "train") == {"ant": 0, "bee": 1, "cat": 2, "dog": 3}
    assert labels(data, "val") == {"bee": 1, "dog": 3}
    assert data.label_counts("val", 4) == [0, 2, 0, 2]
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "by name" in line]
    assert "data.val" in said and "classnames.txt" in said and "0 is 'bee', there 1" in said


def test_classes_of_a_test_set_go_by_the_names_of_training(tmp_path):
    train = folder_of(tmp_path / "train", "ant", "bee")
    data = data_of(train=train, test=folder_of(tmp_path / "test", "bee"))
    assert labels(data, "test") == {"bee": 1}


def test_names_that_the_user_gives_order_all_splits(tmp_path):
    val = folder_of(tmp_path / "val", "ant", "bee", "dog")
    assert labels(data_of(val=val, class_names=["dog", "bee", "ant"]), "val") == {
        "ant": 2,
        "bee": 1,
        "dog": 0,
    }


def test_sources_of_a_mixture_agree_on_classes(tmp_path):
    first = folder_of(tmp_path / "one", "ant", "bee")
    second = folder_of(tmp_path / "two", "bee", "cow")
    val = folder_of(tmp_path / "val", "ant", "cow")
    data = data_of(train=[Split(first), Split(second)], val=val)
    assert labels(data, "train") == {"ant": 0, "bee": 1, "cow": 2}
    assert labels(data, "val") == {"ant": 0, "cow": 2}


def test_names_one_folder_up_are_those_of_all_splits(tmp_path):
    splits = {}
    for name in ("train", "val"):
        shards = Path(folder_of(tmp_path / "packed" / name, "ant", "bee"))
        (shards / "classnames.txt").rename(tmp_path / "classnames.txt")
        splits[name] = str(shards.rename(tmp_path / name))
    data = data_of(**splits, class_names=["bee", "ant", "cow"])
    assert labels(data, "train") == labels(data, "val") == {"ant": 1, "bee": 0}
    data = data_of(**splits, class_names=["cow", "elk", "fox"])
    with pytest.raises(UserError, match=r"classnames\.txt has 2 classes, 'ant' and so on, none of"):
        labels(data, "train")


@pytest.mark.parametrize("split", ["train", "val"])
def test_names_of_another_set_are_refused(tmp_path, split):
    shards = {split: folder_of(tmp_path / "a", "bad", "good")}
    data = data_of(**shards, class_names=["place", "person", "number"])
    with pytest.raises(UserError, match=r"classnames\.txt has 2 classes, 'bad' and so on, none of"):
        labels(data, split)


def test_a_class_that_training_lacks_is_refused_before_training(tmp_path):
    train = folder_of(tmp_path / "train", "ant", "cat")
    data = data_of(train=train, val=folder_of(tmp_path / "val", "ant", "bee"))
    with pytest.raises(
        UserError, match=r"data.val: sample bee/0 of .*'bee' in .*no class of train"
    ):
        data.setup("fit")
    # without samples of it, it is in nobody's way
    alone = data_of(train=train, val=Split(str(tmp_path / "val/shards"), without={"cls": 1}))
    alone.setup("fit")
    assert labels(alone, "val") == {"ant": 0}


def test_classes_of_one_name_keep_their_numbers(tmp_path):
    names = ["crane", "dog", "crane"]
    for split in ("train", "val"):
        shard_of(tmp_path / split / "0.tar", [0, 1, 2])
        (tmp_path / split / "classnames.txt").write_text("crane\ndog\ncrane\n")
    given = {split: str(tmp_path / split) for split in ("train", "val")}
    for class_names in (None, names):
        data = data_of(**given, class_names=class_names)
        assert labels(data, "val") == {"0": 0, "1": 1, "2": 2}


@pytest.mark.parametrize("member", ["cls", "json"])
def test_names_are_labels_wherever_numbers_are(tmp_path, member):
    val = shard_of(tmp_path / "0.tar", ["cat", "dog", 1, "dog", 0], member=member)
    members = Members(text="txt", label={"cls": "cls", "json": "json:l"}[member])
    data = data_of(members, val=val, class_names=["cat", "dog"])
    assert labels(data, "val") == {"cat": 0, "dog": 1, "1": 1, "0": 0}
    assert data.label_counts("val", 2) == [2, 3]


def test_names_beside_the_shards_are_enough_for_names_as_labels(tmp_path):
    train = shard_of(tmp_path / "0.tar", ["dog", "cat"])
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    assert labels(data_of(train=train), "train") == {"dog": 1, "cat": 0}


@pytest.mark.parametrize(
    ("given", "names", "said"),
    [
        (["cat", "dog"], None, r"2 of 2 samples.*sample 0 of .*'cat'.*give data\.class_names"),
        (["cat", "dgo"], ["cat", "dog"], r"1 of 2.*sample 1 of .*0\.tar.*did you mean 'dog'"),
        (
            [0, 5, 1],
            ["a", "b"],
            r"train has label 5.*only 2 class names.*sample 1 of .*0\.tar",
        ),
        ([1, 2], ["a", "b"], "seem to count from 1"),
        (["a", 1], ["a", "b", "a"], "'a' is the name of classes 0 and 2; give the number"),
    ],
)
def test_a_label_that_is_no_class_is_told_before_training(tmp_path, given, names, said):
    data = data_of(train=shard_of(tmp_path / "0.tar", given), class_names=names)
    with pytest.raises(UserError, match=said):
        data.setup("fit")


def test_a_label_beyond_the_models_classes_is_told_before_training(tmp_path):
    data = data_of(train=shard_of(tmp_path / "0.tar", [0, 1, 4]))
    data.setup("fit")
    data.check_classes(5)
    with pytest.raises(UserError, match=r"label 4, but there are only 4 classes .*sample 2 of"):
        data.check_classes(4)


def test_few_texts_that_name_no_class_are_bad_samples(tmp_path):
    train = shard_of(tmp_path / "0.tar", [0, 1, "n/a"])
    data = data_of(train=train, class_names=["cat", "dog"], max_bad_fraction=0.5)
    data.setup("fit")
    assert data.label_counts("train", 2) == [1, 1]


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        ([["cat"], ["cow"]], r"field 'l': sample 1 of .*'cow' is not in"),
        ([[0], [3]], r"label 3, but there are only 3"),
        ([[0, 1, 1], [1, 0, 0]], "every list holds 3 zeros and ones"),
    ],
)
def test_lists_of_labels_are_looked_at_before_training(tmp_path, lists, said):
    members = Members(text="txt", fields={"l": "json:l"})
    train = shard_of(tmp_path / "0.tar", lists, member="json")
    data = data_of(members, train=train, class_names=["cat", "dog", "owl"])
    data.setup("fit")
    with pytest.raises(UserError, match=said):
        data.check_classes(3, field="l")


def test_predictions_need_no_labels_that_can_be_understood(tmp_path):
    shard = shard_of(tmp_path / "0.tar", [0, 7, "cow"])
    data = data_of(predict=PredictSplit(shards=shard), class_names=["cat", "dog"])
    assert labels(data, "predict") == {"0": 0, "7": -1, "cow": -1}


@pytest.mark.parametrize("given", ["dog", ["dog"], 1, "1"])
@pytest.mark.parametrize("how", ["numbers", "names", "both"])
def test_filters_take_classes_by_number_and_name(tmp_path, given, how):
    labels_of = {"numbers": [0, 1, 1, 0], "names": ["cat", "dog", "dog", "cat"]}
    written = labels_of.get(how, [0, "dog", 1, "cat"])
    shard = shard_of(tmp_path / "0.tar", written)
    for name, numbers in (("only", [1, 1]), ("without", [0, 0])):
        data = data_of(val=Split(shard, **{name: {"cls": given}}), class_names=["cat", "dog"])
        (batch,) = list(data.eval_loader("val"))
        assert batch.label_B.tolist() == numbers


def test_samples_per_class_count_numbers_and_names_together(tmp_path):
    shard = shard_of(tmp_path / "0.tar", [0, "dog", 1, "cat"])
    split = Split(shard, per_class=2)
    data = data_of(val=split, class_names=["cat", "dog"])
    assert data.eval_loader("val") and data.num_samples("val") == 4


def test_filters_by_a_name_of_two_classes_ask_for_the_number(tmp_path):
    split = Split(shard_of(tmp_path / "0.tar", [0, 1, 2]), only={"cls": "crane"})
    data = data_of(val=split, class_names=["crane", "dog", "crane"])
    with pytest.raises(UserError, match="'crane' is the name of classes 0 and 2"):
        data.setup("validate")
