"""Sources of a mixture: weighed by tokens, named, of other modalities, validated one by one."""

from fractions import Fraction

import numpy as np
import pytest
from multimodal import sample_members, text_only
from shard_files import text_shard, write_tar

from mmlight.data.decode.audio import AudioSettings
from mmlight.data.decode.image import ImageSettings
from mmlight.data.members import Members
from mmlight.data.mixing import tokens_per_sample
from mmlight.data.order.evaluation import EvalOrder
from mmlight.data.splits.split import Split
from mmlight.data.text import TextSettings
from mmlight.errors import UserError
from mmlight.text.tokenizer import ByteTokenizer

# Bytes of each text; a token each, beside start and end.
SIZES = (10, 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    for number, size in enumerate(SIZES):
        text_shard(folder / f"{number}.tar", 40, first=100 * number, size=size)
    return folder


def mixture(folder, *, first=None, second=None, **settings):
    train = [
        Split(str(folder / f"{number}.tar"), **(given or {}))
        for number, given in enumerate((first, second))
    ]
    settings = {"members": Members(text="txt"), "train": train, "global_batch_size": 8} | settings
    data = text_only(folder, **settings)
    data.setup("fit")
    return data


def tokens(data, number):
    corpus, members = data.samples("train").parts[number]
    return tokens_per_sample(
        corpus, members, text=data.text, decoding=data.decoding("train"), where="data.train"
    )


def test_tokens_per_sample_are_those_of_the_batches(folder):
    data = mixture(folder)
    for number in (0, 1):
        batch = data.batch_of("train", range(40 * number, 40 * number + 40))
        assert tokens(data, number) == Fraction(int(batch.text.mask_NL.sum()), 40)


def test_texts_count_as_they_are_cut(folder):
    short = TextSettings(ByteTokenizer(), max_tokens=16)
    assert tokens(mixture(folder, text=short), 1) == 16


@pytest.mark.parametrize("batches", ["mixed", "one_source"])
def test_each_source_has_its_share_of_the_tokens_within_a_sample_or_batch(folder, batches):
    data = mixture(
        folder, weights_by="tokens", batches=batches, second={"weight": 3.0}, samples_per_epoch=8000
    )
    each = [float(tokens(data, number)) for number in (0, 1)]
    share = np.array([1 / each[0], 3 / each[1]])
    share /= share.sum()
    unit = 8 if batches == "one_source" else 1
    order = data.train_batches(data._rank()).order
    seen = np.concatenate([order.batch(0, step) for step in range(1000)])
    counts = np.array([(seen < 40).sum(), (seen >= 40).sum()])
    # One for the counting; the shares are multiples of 1 / 65536.
    assert np.abs(counts - 8000 * share).max() < unit + 8000 / 65536
    given = counts * each
    assert given[1] / given[0] == pytest.approx(3, abs=0.02)


def test_a_written_number_of_tokens_replaces_the_count(folder):
    given = {"tokens_per_sample": 100.0}
    data = mixture(folder, weights_by="tokens", first=given, second=given)
    assert data.state_dict()["order"]["weights"] == [0.5, 0.5]


@pytest.mark.parametrize("batches", ["mixed", "one_source"])
def test_weights_that_change_are_exact_over_any_thousand_steps(folder, batches):
    data = mixture(
        folder,
        batches=batches,
        first={"weight": {0: 0.9, 1003: 0.25, 2500: 0.0}},
        second={"weight": {0: 0.1, 1003: 0.75}},
    )
    order = data.train_batches(data._rank()).order
    steps = [divmod(step, order.steps_per_epoch) for step in range(3000)]
    first = np.array([(order.batch(*step) < 40).sum() for step in steps])
    share = np.select([np.arange(3000) < 1003, np.arange(3000) < 2500], [0.9, 0.25], 0.0)
    unit = 8 if batches == "one_source" else 1
    error = np.cumsum(first) - np.cumsum(8 * share)
    assert np.abs(error).max() <= unit / 2 + 1e-6  # of two sources
    thousand = error[1000:] - error[:-1000]
    assert np.abs(thousand).max() <= unit + 1e-6
    resumed = mixture(
        folder,
        batches=batches,
        first={"weight": {0: 0.9, 1003: 0.25, 2500: 0.0}},
        second={"weight": {0: 0.1, 1003: 0.75}},
    )
    resumed.load_state_dict(data.state_dict() | {"epoch": 150, "step": 7})
    assert resumed._position.next_batch() == 150 * order.steps_per_epoch + 7
    later = resumed.train_batches(resumed._rank())
    number = resumed._position.next_batch()
    whole = order.batch(150, 7)
    assert later[number].index_B.tolist() == whole.tolist()
    halves = [order.batch(150, 7, rank=rank, world_size=2) for rank in range(2)]
    assert np.concatenate(halves).tolist() == whole.tolist()


def test_batches_say_where_samples_are_from(folder):
    data = mixture(folder, first={"name": "web"}, batches="one_source")
    batches = data.train_batches(data._rank())
    for number in range(6):
        batch = batches[number]
        names = ["web" if sample < 40 else "source_1" for sample in batch.index_B.tolist()]
        assert list(batch.sources) == names
        assert len(set(names)) == 1
    assert data.source_names("train") == ["web", "source_1"]


def test_sources_of_other_modalities_share_batches(tmp_path):
    for name, kept, numbers in (("a", ("jpg", "txt"), range(12)), ("b", ("flac",), range(20, 32))):
        write_tar(
            tmp_path / f"{name}.tar",
            [
                (f"{number:04d}.{extension}", data)
                for number in numbers
                for extension, data in sample_members(number).items()
                if extension in kept
            ],
        )
    train = [
        Split(str(tmp_path / "a.tar"), members=Members(image="jpg", text="txt")),
        Split(str(tmp_path / "b.tar"), members=Members(audio="flac")),
    ]
    settings = {"image": ImageSettings(size=16), "audio": AudioSettings(max_seconds=0.1)}
    data = text_only(tmp_path, members=Members(), train=train, global_batch_size=4, **settings)
    data.setup("fit")
    batch = data.train_batches(data._rank())[0]
    has_sound = [name == "source_1" for name in batch.sources]
    assert batch.audio.present_B.tolist() == has_sound
    assert batch.image.present_B.tolist() == [not there for there in has_sound]
    assert batch.text.present_N.tolist() == [not there for there in has_sound]
    assert sorted(has_sound) == [False, False, True, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first": {"name": "a"}, "second": {"name": "a"}}, "two sources have the name 'a'"),
        ({"first": {"name": "a b"}}, "data.train: name 'a b' of a source"),
        ({"first": {"tokens_per_sample": 3.0}}, "only on a list of sources with data.weights_by"),
        ({"first": {"tokens_per_sample": 0.0}, "weights_by": "tokens"}, "it must be above 0"),
        ({"first": {"weight": {5: 1.0}}}, "0 the first, such as"),
        ({"first": {"weight": {0: 0.0}}}, "not all of them 0"),
        ({"first": {"weight": {0: 1.0, 9: 0.0}}, "second": {"weight": {0: 1.0, 9: 0.0}}}, "step 9"),
        ({"batches": "one_source", "bucket_batches": 4}, "data.bucket_batches sorts samples"),
        ({"train": Split("x"), "batches": "one_source"}, "data.batches has an effect only if"),
        ({"train": Split("x"), "weights_by": "tokens"}, "data.weights_by has an effect only if"),
        ({"train": Split("x", name="a")}, "data.train.name has an effect only if"),
        ({"val": [Split("x", weight=2.0), Split("y")]}, "a split's weight has an effect only"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(folder, settings, message):
    with pytest.raises(UserError, match=message):
        mixture(folder, **settings)


def test_weights_by_tokens_need_a_text(folder, tmp_path):
    write_tar(tmp_path / "2.tar", [(f"{n}.cls", b"1") for n in range(9)])
    train = [Split(str(folder / "0.tar")), Split(str(tmp_path / "2.tar"), members=Members())]
    with pytest.raises(UserError, match=r"of data.train\[1\], and it maps no text; set data.train"):
        mixture(folder, train=train, weights_by="tokens")


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_no_batch_of_an_evaluation_has_samples_of_two_sources(world_size):
    order = EvalOrder(10, 3, 7, batch_size=2)
    seen = []
    for step in range(order.num_batches(world_size)):
        ranks = [order.batch(step, rank=r, world_size=world_size) for r in range(world_size)]
        numbers = np.concatenate([samples for samples, _ in ranks])
        assert len(set(np.digitize(numbers, [10, 13]).tolist())) == 1
        seen += np.concatenate([samples[valid] for samples, valid in ranks]).tolist()
    assert seen == list(range(20))
