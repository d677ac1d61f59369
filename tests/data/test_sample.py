import json
import time
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from multimodal import jpeg, sample_members
from shard_files import sound, write_tar

from mmlight.data.decode.audio import AudioSettings
from mmlight.data.decode.draw import Draws
from mmlight.data.decode.image import ImageSettings
from mmlight.data.members import Members
from mmlight.data.sample import BadMemberError, Decoding, SampleSet, decode_sample
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.errors import UserError
from mmlight.files import warn_once

DECODING = Decoding(
    image=ImageSettings(size=8),
    audio=AudioSettings(sample_rate_hz=8000),
    clean="whitespace",
    class_names=None,
)
ALL = Members(image="jpg", text="txt", audio="flac", label="cls", fields={"n": "json:n"})


def sample_set(folder, *samples: dict[str, bytes], members: Members = ALL) -> SampleSet:
    path = write_tar(
        folder / "s.tar",
        [
            (f"{n}.{name}", data)
            for n, sample in enumerate(samples)
            for name, data in sample.items()
        ],
    )
    return SampleSet([(Corpus(load_or_build([path], progress=False)), members)])


def in_epoch(epoch: int, *, sample: int = 0):
    return partial(Draws, seed=0, epoch=epoch, sample=sample)


def test_a_whole_sample(tmp_path):
    samples = sample_set(tmp_path, sample_members(4))
    sample = decode_sample(samples, 0, DECODING, draws=None)
    assert sample.key == "s/0" and sample.index == 0 and sample.valid
    assert [p.shape for p in sample.pixels] == [(3, 8, 8)]
    assert [len(w) for w in sample.waveforms] == [480]
    assert (sample.captions, sample.label, sample.fields) == (["caption 4"], 1, {"n": 4})


def test_members_that_a_sample_lacks_stay_empty(tmp_path):
    samples = sample_set(tmp_path, sample_members(0), {"txt": b"only text"}, {"jpg": jpeg()})
    sample = decode_sample(samples, 1, DECODING, draws=in_epoch(0, sample=1))
    assert sample.pixels == sample.waveforms == []
    assert (sample.captions, sample.label, sample.fields) == (["only text"], -1, {"n": None})
    sample = decode_sample(samples, 2, DECODING, draws=None)
    assert sample.pixels and sample.captions == []


def test_all_captions_in_evaluation_one_drawn_by_weight_in_training(tmp_path):
    content = {"txt": b"t", "json": json.dumps({"alt": "a", "more": ["b", "c"]}).encode()}
    members = Members(text={"txt": 0.5, "json:alt": 0.3, "json:more": 0.2})
    samples = sample_set(tmp_path, content, members=members)
    assert decode_sample(samples, 0, DECODING, draws=None).captions == ["t", "a", "b", "c"]
    drawn: Counter[str] = Counter()
    for epoch in range(1000):
        sample = decode_sample(samples, 0, DECODING, draws=in_epoch(epoch))
        assert len(sample.captions) == 1
        drawn.update(sample.captions)
    shares = np.array([drawn[text] for text in "tabc"]) / 1000
    assert np.abs(shares - [0.5, 0.3, 0.1, 0.1]).max() < 0.05
    again = [decode_sample(samples, 0, DECODING, draws=in_epoch(3)).captions for _ in range(2)]
    assert again[0] == again[1]


def test_several_captions_are_drawn_without_repeats_while_there_are_others(tmp_path):
    members = Members(text={"txt": 1.0, "json:alts": 1.0})
    contents = {"txt": b"t", "json": json.dumps({"alts": ["a", "b"]}).encode()}
    samples = sample_set(tmp_path, contents, {"cls": b"1"}, members=members)
    three, five = (replace(DECODING, num_captions=count) for count in (3, 5))
    orders = set()
    for epoch in range(20):
        sample = decode_sample(samples, 0, three, draws=in_epoch(epoch))
        assert sorted(sample.captions) == ["a", "b", "t"]
        orders.add(tuple(sample.captions))
        assert (
            sample.captions[:1]
            == decode_sample(samples, 0, DECODING, draws=in_epoch(epoch)).captions
        )
    assert len(orders) > 2
    counts = Counter(decode_sample(samples, 0, five, draws=in_epoch(0)).captions)
    assert sorted(counts.values()) == [1, 2, 2]
    assert decode_sample(samples, 1, three, draws=in_epoch(0)).blank_captions == 3


def test_captions_made_of_class_names(tmp_path):
    members = Members(label="cls", class_captions=["a {}", "one {} here"])
    samples = sample_set(tmp_path, {"cls": b"1"}, {"txt": b"no label"}, members=members)
    decoding = Decoding(image=None, audio=None, clean="none", class_names=("cat", "dog"))
    assert decode_sample(samples, 0, decoding, draws=None).captions == ["a dog", "one dog here"]
    seen = {
        decode_sample(samples, 0, decoding, draws=in_epoch(epoch)).captions[0]
        for epoch in range(20)
    }
    assert seen == {"a dog", "one dog here"}
    assert decode_sample(samples, 1, decoding, draws=None).captions == []


@pytest.mark.parametrize(
    ("member", "data"),
    [
        ("jpg", jpeg()[:300]),
        ("flac", sound(1.0)[:500]),
        ("txt", b"\xff\xff"),
        ("cls", b"cat"),
        ("json", b"{"),
        ("json", b"[" * 100_000),
    ],
)
def test_any_broken_member_is_a_bad_member(tmp_path, member, data):
    samples = sample_set(tmp_path, sample_members(0) | {member: data})
    with pytest.raises(BadMemberError) as caught:
        decode_sample(samples, 0, DECODING, draws=None)
    named = {"txt": "text", "json": "json:n"}.get(member, member)
    assert caught.value.member == named
    assert caught.value.reason and "\n" not in caught.value.reason


def test_a_label_past_the_class_names_is_the_users_mistake(tmp_path):
    samples = sample_set(tmp_path, sample_members(2))
    decoding = Decoding(image=None, audio=None, clean="none", class_names=("cat", "dog"))
    with pytest.raises(UserError, match="label 2, but there are only 2 class names"):
        decode_sample(samples, 0, decoding, draws=None)


def test_one_more_modality_leaves_the_crops_of_the_others(tmp_path):
    samples = sample_set(tmp_path, sample_members(0))
    alone = SampleSet([(samples.corpus, Members(image="jpg"))])
    both = [decode_sample(s, 0, DECODING, draws=in_epoch(1)).pixels[0] for s in (samples, alone)]
    assert both[0] is not None and both[0].equal(both[1])


def test_parts_have_members_of_their_own_and_neighbours(tmp_path):
    corpora = [
        Corpus(
            load_or_build(
                [write_tar(tmp_path / f"{name}.tar", [(f"{n}.txt", b"t") for n in range(count)])],
                progress=False,
            )
        )
        for name, count in (("x", 3), ("y", 2))
    ]
    first, second = Members(text="txt"), Members(text=["txt", "json:a"])
    samples = SampleSet([(corpora[0], first), (corpora[1], second)])
    assert len(samples) == 5
    assert [samples.members(n) is second for n in range(5)] == [False] * 3 + [True] * 2
    assert samples.neighbours(2) == range(0, 3) and samples.neighbours(3) == range(3, 5)
    assert samples.corpus.key(4) == "y/1"


def test_a_caption_of_20_mb_is_cut_before_it_is_cleaned(tmp_path, capsys):
    warn_once.cache_clear()
    long = b"h\xc3\xa9llo w\xc3\xb6rld &amp; some " * 800_000
    samples = sample_set(tmp_path, {"txt": long}, {"txt": b" " * 200_000 + b"behind"})
    decoding = replace(DECODING, clean="clip")
    start = time.process_time()
    sample = decode_sample(samples, 0, decoding, draws=in_epoch(0))
    assert time.process_time() - start < 5
    assert "texts are cut to data.text.max_characters (100,000)" in capsys.readouterr().err
    whole = "héllo wörld & some "
    assert sample.captions[0].startswith(whole * 4000) and len(sample.captions[0]) < 100_000
    short = decode_sample(samples, 0, replace(decoding, max_characters=12), draws=None)
    assert short.captions == short.uncorrupted == ["héllo wörld"]
    assert decode_sample(samples, 1, decoding, draws=None).captions == []


def test_the_captions_of_a_sample_are_limited(tmp_path):
    lines = [{"txt": b"a\n" * count} for count in (1000, 1001)]
    members = Members(text="txt", text_lines=True)
    samples = sample_set(tmp_path, *lines, members=members)
    assert len(decode_sample(samples, 0, DECODING, draws=None).captions) == 1000
    with pytest.raises(BadMemberError, match="txt holds 1001 captions, more than 1000"):
        decode_sample(samples, 1, DECODING, draws=None)
