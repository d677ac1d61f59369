"""Cross-validation as filters of an experiment's splits."""

import pytest
from shard_files import write_tar
from test_subset import write

from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.splits.folds import find_folds, fold_data
from mmlight.data.splits.split import Split
from mmlight.data.text import TextSettings
from mmlight.errors import UserError
from mmlight.text.tokenizer import ByteTokenizer

MEMBERS = {"text": "txt", "label": "cls", "fields": {"n": "json:n"}}
PLAIN = {"members": None, "weight": 1.0, "only": None, "without": None, "per_class": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("folds"))


def data(folder, **changes):
    given = {
        "members": MEMBERS,
        "train": {**PLAIN, "shards": str(folder)},
        "val": None,
        "test": None,
        "seed": 0,
    }
    return {**given, **changes}


def split(folder, **filters):
    return {**PLAIN, "shards": str(folder), **filters}


def samples(init_args):
    """The samples of each split, by number, as the data module reads them."""

    def built(value):
        if isinstance(value, list):
            return [built(item) for item in value]
        return Split(**{**value, "members": None})

    splits = {n: built(init_args[n]) for n in ("train", "val", "test") if init_args[n]}
    module = ShardDataModule(
        members=Members(**MEMBERS),
        **splits,
        text=TextSettings(ByteTokenizer()),
        global_batch_size=1,
        num_workers=0,
    )
    module.setup("fit")
    module.setup("test")
    return {
        name: {int(found.corpus.origin(i)[1]) for i in range(len(found))}
        for name, found in module._samples.items()
    }


def test_each_speaker_is_left_out_once(folder):
    folds = find_folds(data(folder), field="json:speaker", k=None)
    assert [(f.name, f.num_samples) for f in folds.folds] == [("ann", 12), ("bob", 12), ("cid", 12)]
    for number, fold in enumerate(folds.folds):
        found = samples(fold_data(data(folder), fold, folds))
        assert found["test"] == set(range(number, 36, 3))
        assert found["train"] == set(range(36)) - found["test"]


def test_k_folds_part_the_samples_label_by_label(folder):
    folds = find_folds(data(folder), field=None, k=4)
    parts = [samples(fold_data(data(folder), fold, folds)) for fold in folds.folds]
    assert [fold.name for fold in folds.folds] == ["fold0", "fold1", "fold2", "fold3"]
    assert sorted(n for part in parts for n in part["test"]) == list(range(36))
    for part, fold in zip(parts, folds.folds, strict=True):
        assert part["train"] | part["test"] == set(range(36)) and not part["train"] & part["test"]
        assert len(part["test"]) == fold.num_samples == 9
        counts = [sum(n // 3 % 4 == label for n in part["test"]) for label in range(4)]
        assert min(counts) >= 2


def test_groups_of_values_are_of_like_sizes(folder):
    folds = find_folds(data(folder), field="json:n", k=5)
    assert sorted(fold.num_samples for fold in folds.folds) == [7, 7, 7, 7, 8]
    assert sorted(int(v) for fold in folds.folds for v in fold.values) == list(range(36))


def test_some_folds_alone(folder):
    folds = find_folds(data(folder), field="json:speaker", k=None, values=["cid", "ann"])
    assert [fold.name for fold in folds.folds] == ["ann", "cid"]
    numbered = find_folds(data(folder), field=None, k=3, values=["2"])
    assert [fold.name for fold in numbered.folds] == ["fold2"]


def test_filters_of_the_experiment_hold_on_both_sides(folder):
    given = data(folder, train=split(folder, only={"cls": [0, 1]}, without={"json:speaker": "cid"}))
    folds = find_folds(given, field="json:speaker", k=None)
    assert [fold.name for fold in folds.folds] == ["ann", "bob"]
    found = samples(fold_data(given, folds.folds[0], folds))
    assert found["test"] == {n for n in range(36) if n % 3 == 0 and n // 3 % 4 < 2}
    assert found["train"] == {n for n in range(36) if n % 3 == 1 and n // 3 % 4 < 2}


def test_few_labels_are_for_training_only(folder):
    given = data(folder, train=split(folder, per_class=2))
    folds = find_folds(given, field="json:speaker", k=None)
    found = samples(fold_data(given, folds.folds[0], folds))
    assert len(found["train"]) == 8 and len(found["test"]) == 12
    assert not found["train"] & found["test"]


def test_validation_goes_without_the_fold_too(folder):
    given = data(folder, val=split(folder, only={"cls": 3}))
    folds = find_folds(given, field="json:speaker", k=None)
    found = samples(fold_data(given, folds.folds[0], folds))
    assert found["val"] == {n for n in range(36) if n % 3 and n // 3 % 4 == 3}
    only_ann = data(folder, val=split(folder, only={"json:speaker": "ann"}))
    folds = find_folds(only_ann, field="json:speaker", k=None)
    with pytest.raises(UserError, match="no sample but those of json:speaker ann"):
        fold_data(only_ann, folds.folds[0], folds)
    assert samples(fold_data(only_ann, folds.folds[1], folds))["val"] == set(range(0, 36, 3))


def test_a_mixture_is_tested_as_one(folder):
    parts = [split(folder / f"{n}.tar", weight=n + 1.0) for n in range(3)]
    given = data(folder, train=parts)
    folds = find_folds(given, field="json:n", k=3)
    found = samples(fold_data(given, folds.folds[0], folds))
    assert len(found["test"]) == 12 and len(found["train"]) == 24
    parts[0] = split(folder / "0.tar", only={"cls": 1})
    with pytest.raises(UserError, match="differ in only"):
        fold_data(given, folds.folds[0], folds)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"field": None, "k": None}, "give --field"),
        ({"field": "json:speeker", "k": None}, "did you mean 'speaker'"),
        ({"field": "json:speaker", "k": 4}, "which has 3 values; use 2 to 3"),
        ({"field": "fold:5", "k": None}, "write --k 5 instead"),
        ({"field": None, "k": 37}, "from 2 to 36"),
        ({"field": "json:speaker", "k": None, "values": ["an"]}, "did you mean 'ann'"),
    ],
)
def test_folds_that_make_no_sense_are_refused(folder, asked, told):
    with pytest.raises(UserError, match=told):
        find_folds(data(folder), **asked)


def test_one_value_or_no_training_shards_are_refused(folder):
    alone = data(folder, train=split(folder, only={"json:speaker": "ann"}))
    with pytest.raises(UserError, match="the same json:speaker"):
        find_folds(alone, field="json:speaker", k=None)
    with pytest.raises(UserError, match=r"data\.train\.shards is not set"):
        find_folds(data(folder, train=None), field=None, k=2)
    dealt = data(folder, train=split(folder, only={"fold:3": [0, 1]}))
    with pytest.raises(UserError, match="has a filter `fold:` already"):
        find_folds(dealt, field=None, k=2)


def test_samples_without_the_metadata_are_counted(folder, tmp_path):
    unknown = write_tar(tmp_path / "x.tar", [("x.txt", b"a"), ("x.cls", b"0"), ("x.json", b"{}")])
    given = data(folder, train={**PLAIN, "shards": [str(folder), str(unknown)]})
    folds = find_folds(given, field="json:speaker", k=None)
    assert (folds.num_samples, folds.num_unknown) == (37, 1)
