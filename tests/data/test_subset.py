"""Splits of some samples: by metadata, by fold, a few of each label."""

import json
import pickle

import numpy as np
import pytest
from multimodal import Recorder, text_only, trainer
from shard_files import write_tar

from mmlight.data.members import Members
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.data.splits.split import Split, open_split
from mmlight.errors import UserError

MEMBERS = Members(text="txt", label="cls", fields={"n": "json:n"})
SPEAKERS = ("ann", "bob", "cid")


def write(folder, *, count=36, per_shard=12):
    """Samples of three speakers and four labels, no two of which go in step."""
    for shard in range(count // per_shard):
        members = []
        for n in range(shard * per_shard, (shard + 1) * per_shard):
            told = {"speaker": SPEAKERS[n % 3], "n": n, "meta": {"young": n % 2 == 0}}
            members += [
                (f"{n:03d}.txt", f"text {n}".encode()),
                (f"{n:03d}.cls", f"{n // 3 % 4}\n".encode()),
                (f"{n:03d}.json", json.dumps(told).encode()),
            ]
            if n == 35:
                members += [(f"{n:03d}.png", b"no picture")]
        write_tar(folder / f"{shard}.tar", members)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("subset"))


def numbers(folder, *, seed=0, members=MEMBERS, **filters):
    corpus = open_split(
        Split(str(folder), **filters), members=members, seed=seed, where="data.train"
    )
    return [int(corpus.key(i).rpartition("/")[2]) for i in range(len(corpus))]


def test_only_and_without_part_the_samples(folder):
    kept = numbers(folder, only={"json:speaker": ["ann", "cid"]})
    assert kept == [n for n in range(36) if n % 3 != 1]
    assert numbers(folder, without={"json:speaker": "bob"}) == kept
    both = numbers(folder, only={"json:speaker": "ann", "cls": [0, 1]}, without={"cls": 1})
    assert both == [n for n in range(36) if n % 3 == 0 and n // 3 % 4 == 0]
    assert numbers(folder, only={"json:meta.young": "true"}) == list(range(0, 36, 2))


def test_few_samples_of_each_label(folder):
    three = numbers(folder, per_class=3)
    assert [sum(n // 3 % 4 == label for n in three) for label in range(4)] == [3] * 4
    assert three == numbers(folder, per_class=3) == sorted(three)
    assert three != numbers(folder, per_class=3, seed=1)
    assert set(three) < set(numbers(folder, per_class=4))
    # what other filters leave keeps its rank
    ann = {"json:speaker": "ann"}
    assert set(numbers(folder, per_class=1, only=ann)) >= {
        n for n in numbers(folder, per_class=1) if n % 3 == 0
    }


def test_folds_are_equal_parts_with_equal_shares_of_each_label(folder):
    folds = [numbers(folder, only={"fold:5": k}) for k in range(5)]
    assert sorted(n for fold in folds for n in fold) == list(range(36))
    assert sorted(map(len, folds)) == [7, 7, 7, 7, 8]
    for fold in folds:
        counts = [sum(n // 3 % 4 == label for n in fold) for label in range(4)]
        assert max(counts) - min(counts) <= 1
    assert numbers(folder, without={"fold:5": [0]}) == sorted(set(range(36)) - set(folds[0]))
    assert folds[0] != numbers(folder, only={"fold:5": 0}, seed=1)


@pytest.mark.parametrize(
    ("filters", "told"),
    [
        ({"only": {"json:speaker": "an"}}, "as json:speaker (did you mean 'ann'?); there is ann,"),
        ({"without": {"cls": [0, 7]}}, "data.train.without: no sample has '7' as cls"),
        ({"only": {"json:speakr": "ann"}}, "(did you mean 'speaker'?)"),
        ({"only": {"flac": "ann"}}, "no sample has a member 'flac'; there is cls, json, png, txt"),
        ({"only": {"json:meta": "a"}}, "'json:meta' is no text and no number"),
        ({"only": {"txt:a": "a"}}, "not JSON"),
        ({"only": {"cls": []}}, "'cls' has no values"),
        ({"only": {"cls": 1}, "without": {"cls": 1}}, "leave no sample"),
        ({"per_class": 10}, "label 0 has only 9 samples"),
        ({"per_class": 0}, "it must be 1 or more"),
        ({"per_class": 1, "members": Members(text="txt")}, "needs data.members.label"),
        ({"only": {"fold:37": 0}}, "a number from 2 to 36"),
        ({"only": {"fold:5": 5}}, "no sample has '5' as fold:5"),
    ],
)
def test_filters_that_fit_nothing_are_refused(folder, filters, told):
    with pytest.raises(UserError) as error:
        numbers(folder, **filters)
    assert told in str(error.value)


def test_a_subset_reads_its_own_samples_and_nothing_else(folder):
    corpus = Corpus(load_or_build(sorted(folder.glob("*.tar"))))
    part = corpus.subset(np.array([1, 13, 35]))
    assert len(part) == 3 and part.shard_sizes.tolist() == [1, 1, 1]
    assert [part.read(i, ["txt"])["txt"] for i in range(3)] == [b"text 1", b"text 13", b"text 35"]
    again = part.subset(np.array([1, 2]))
    assert [again.origin(i)[1] for i in range(2)] == ["013", "035"]
    assert again.key(0) == "1/013"
    assert again.extensions() == {"txt": 2, "cls": 2, "json": 2, "png": 1}
    assert len(again.durations) == 2 and again.image_sizes.shape == (2, 2)
    copied = pickle.loads(pickle.dumps(again))
    assert copied.read(1, ["cls"]) == again.read(1, ["cls"])
    assert copied.fingerprint() == again.fingerprint()


def test_the_fingerprint_tells_subsets_apart(folder):
    corpus = Corpus(load_or_build(sorted(folder.glob("*.tar"))))
    parts = [corpus, corpus.subset(np.array([1, 2])), corpus.subset(np.array([1, 3]))]
    assert len({part.fingerprint() for part in parts}) == 3


def test_one_shard_in_two_sources_with_other_samples_each(folder):
    mixture = [
        Split(str(folder), only={"cls": 0}, weight=3.0),
        Split(str(folder), without={"cls": 0}, weight=1.0),
    ]
    module = text_only(folder, members=MEMBERS, train=mixture, samples_per_epoch=36)
    module.setup("fit")
    labels = [label for batch in module.train_dataloader() for label in batch.label_B.tolist()]
    assert labels.count(0) == 27
    mixture[1].without = None
    with pytest.raises(UserError, match="comes twice with the same samples"):
        text_only(folder, members=MEMBERS, train=mixture).setup("fit")


def test_training_and_validation_on_parts_of_the_same_shards(folder):
    fold = {"fold:4": 0}
    module = text_only(
        folder,
        members=MEMBERS,
        train=Split(str(folder), without=fold),
        val=Split(str(folder), only=fold),
        global_batch_size=3,
    )
    model = Recorder()
    trainer(folder, max_epochs=1).fit(model, datamodule=module)
    assert sorted(n for step in model.trained for n in step) == list(range(27))
    assert model.validated == list(range(9))


def test_training_does_not_continue_on_another_part(folder):
    def module(**filters):
        made = text_only(folder, members=MEMBERS, train=Split(str(folder), **filters))
        made.setup("fit")
        return made

    state = module(only={"cls": 1}).state_dict()
    module(only={"cls": "1"}).load_state_dict(state)
    with pytest.raises(UserError, match="other samples are chosen of 3 shards"):
        module(only={"cls": 2}).load_state_dict(state)
