"""Labels are counted where they can be read."""

import json

import pytest
from shard_files import write_tar

from mmlight.data.label_checks import label_counts
from mmlight.data.labels import Labels
from mmlight.data.members import Members
from mmlight.data.sample import SampleSet
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.data.splits.metadata import read_values
from mmlight.errors import UserError


def corpus_of(tmp_path, name, values):
    members = [(f"{number:03d}.{name}", value) for number, value in enumerate(values)]
    return Corpus(load_or_build([write_tar(tmp_path / "0.tar", members)], progress=False))


def test_bad_labels_are_left_out(tmp_path):
    values = [b"0", b"1", b"n/a", b"1", b"-3", b"1" + b"0" * 30, b"1" * 5000, b"\xff", b"nan"]
    samples = SampleSet([(corpus_of(tmp_path, "cls", values), Members(label="cls"))])
    assert label_counts(samples, 3, field=None, class_names=[], labels=Labels()) == [1, 2, 0]


def test_samples_of_several_labels_one_of_which_is_bad_are_left_out(tmp_path):
    values = [
        {"l": ["cat", 1]},
        {"l": ["cat", "n/a"]},
        {"l": [True]},
        {"l": [1.5, 0]},
        {"l": "dog"},
    ]
    raw = [json.dumps(value).encode() for value in values]
    raw += [b"{", b"[" * 100_000, b'{"l": ' + b"1" * 5000 + b"}", b'{"l": [NaN]}', b'{"l": 1e999}']
    members = Members(fields={"labels": "json:l"})
    samples = SampleSet([(corpus_of(tmp_path, "json", raw), members)])
    names = ["cat", "dog"]
    counts = label_counts(samples, 2, field="labels", class_names=names, labels=Labels(names))
    assert counts == [1, 2]


def test_a_label_beyond_the_classes_is_named(tmp_path):
    samples = SampleSet([(corpus_of(tmp_path, "cls", [b"0", b"7"]), Members(label="cls"))])
    with pytest.raises(
        UserError, match=r"sample 001 of .*0.tar has label 7, but there are 2 classes"
    ):
        label_counts(samples, 2, field=None, class_names=[], labels=Labels())


def test_metadata_of_bad_members_is_missing(tmp_path):
    raw = [b'{"s": "ann"}', b"[" * 100_000, b"{", b'{"s": ' + b"1" * 5000 + b"}", b'{"s": NaN}']
    corpus = corpus_of(tmp_path, "json", raw)
    values = read_values(corpus, ["json:s"], members=Members(), seed=0, where="x")
    assert values["json:s"] == ["ann", None, None, None, "nan"]
