import pytest
import torch
from multimodal import shard
from shard_files import write_tar

from mmlight.data.collate import Layout
from mmlight.data.dataset import EvalBatches, Rank, Refusal, TrainBatches
from mmlight.data.decode.image import ImageSettings
from mmlight.data.members import Members
from mmlight.data.order.cursor import Order
from mmlight.data.order.evaluation import EvalOrder
from mmlight.data.order.mixture import Mixture
from mmlight.data.sample import Decoding, SampleSet
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.data.text import TextSettings
from mmlight.text.tokenizer import ByteTokenizer

IMAGE = ImageSettings(size=8, scale=(0.3, 1.0))
TEXT = TextSettings(ByteTokenizer())
DECODING = Decoding(image=IMAGE, audio=None, clean="none", class_names=None)
LAYOUT = Layout(modalities=("image", "text"), labels=True, fields=(), image=IMAGE, text=TEXT)
MEMBERS = Members(image="jpg", text="json:captions", label="cls")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Two shards, 22 samples; images of 3, 10 and 15 are broken."""
    folder = tmp_path_factory.mktemp("shards")
    paths = [
        shard(folder / "0.tar", range(13), broken=[3, 10]),
        shard(folder / "1.tar", range(13, 22), broken=[15]),
    ]
    return SampleSet([(Corpus(load_or_build(paths, progress=False)), MEMBERS)])


def train(samples, *, seed=0, rank=0, world_size=1, order=None, decoding=DECODING) -> TrainBatches:
    order = order or Order(samples.corpus.shard_sizes, global_batch=8, seed=0, num_lanes=4)
    return TrainBatches(
        samples,
        order=order,
        decoding=decoding,
        layout=LAYOUT,
        seed=seed,
        rank=Rank(rank, world_size),
    )


def joined(samples, number: int, world_size: int) -> dict[str, object]:
    parts = [train(samples, rank=rank, world_size=world_size)[number] for rank in range(world_size)]
    return {
        "index": torch.cat([part.index_B for part in parts]).tolist(),
        "keys": [key for part in parts for key in part.keys],
        "pixels": torch.cat([part.image.pixels_BCHW for part in parts]).tolist(),
        "captions": [text for part in parts for text in part.captions],
        "bad": [bad for part in parts for bad in part.bad],
    }


def test_global_batches_are_the_same_on_1_2_and_4_ranks(samples):
    bad = []
    for number in range(6):
        alone = joined(samples, number, 1)
        bad += alone["bad"]
        for world_size in (2, 4):
            shared = joined(samples, number, world_size)
            assert alone == shared
    assert len({(one.shard, one.key) for one in bad}) == 3  # replaced alike, on any rank


def test_items_are_a_function_of_their_number(samples):
    forwards, backwards = train(samples), train(samples)
    ordered = [forwards[n] for n in range(4)]
    for number in (3, 0, 2, 1):
        batch = backwards[number]
        assert torch.equal(batch.image.pixels_BCHW, ordered[number].image.pixels_BCHW)
        assert batch.captions == ordered[number].captions
        assert (batch.epoch, batch.step) == divmod(number, 2)


def test_a_training_batch_has_one_caption_per_sample(samples):
    batch = train(samples)[0]
    assert batch.text.item_N.tolist() == list(range(8))
    assert len(batch.captions) == 8


def test_crops_and_captions_change_from_epoch_to_epoch_and_with_the_seed(samples):
    rows = {}
    for seed in (0, 1):
        for number in range(0, 8):
            batch = train(samples, seed=seed)[number]
            for row, index in enumerate(batch.index_B.tolist()):
                found = rows.setdefault(index, set())
                found.add(batch.image.pixels_BCHW[row].numpy().tobytes())
    assert max(map(len, rows.values())) >= 5


def test_a_bad_sample_is_replaced_and_named(samples):
    batches = [train(samples)[n] for n in range(8)]
    bad = {one.key: one for batch in batches for one in batch.bad}
    assert set(bad) == {"0003", "0010", "0015"}
    one = bad["0010"]
    assert one.shard.endswith("0.tar") and one.member == "jpg"
    assert "truncated" in one.reason and "\n" not in one.reason
    for batch in batches:
        assert batch.size == 8 and batch.image.present_B.all()
        for one in batch.bad:
            assert one.replaced_by in batch.keys
        assert not {"0/0003", "0/0010", "1/0015"} & set(batch.keys)


def test_replacements_vary_with_the_epoch(samples):
    chosen = {
        one.replaced_by for n in range(40) for one in train(samples)[n].bad if one.key == "0003"
    }
    assert len(chosen) > 3


def test_nothing_to_replace_with_is_a_refusal(tmp_path):
    path = shard(tmp_path / "s.tar", range(4), broken=range(4))
    samples = SampleSet([(Corpus(load_or_build([path], progress=False)), MEMBERS)])
    order = Order(samples.corpus.shard_sizes, global_batch=2, seed=0)
    refusal = train(samples, order=order)[0]
    assert isinstance(refusal, Refusal)
    assert "cannot be decoded either" in refusal.message and "truncated" in refusal.message


def test_evaluation_takes_each_sample_once_with_all_captions(samples):
    seen, captions, bad = [], {}, []
    for rank in range(2):
        order = EvalOrder(len(samples), batch_size=4)
        dataset = EvalBatches(
            samples, order=order, decoding=DECODING, layout=LAYOUT, rank=Rank(rank, 2)
        )
        for number in range(order.num_batches(2)):
            batch = dataset[number]
            assert batch.size == 4
            seen += batch.index_B[batch.valid_B].tolist()
            bad += [one.key for one in batch.bad]
            for item, text in zip(batch.text.item_N.tolist(), batch.captions, strict=True):
                if batch.valid_B[item]:
                    captions.setdefault(batch.index_B[item].item(), []).append(text)
            broken = ~batch.image.present_B
            assert not (batch.valid_B & broken).any()
            assert not batch.image.pixels_BCHW[broken].any()
    assert sorted(seen) == sorted(set(range(22)) - {3, 10, 15})
    assert captions == {n: [f"a{n}", f"b{n}"] for n in seen}
    assert sorted(bad) == ["0003", "0010", "0015"]


def test_evaluation_crops_are_not_random(samples):
    order = EvalOrder(len(samples), batch_size=4)
    one, two = (
        EvalBatches(samples, order=order, decoding=DECODING, layout=LAYOUT, rank=Rank())[0]
        for _ in range(2)
    )
    assert torch.equal(one.image.pixels_BCHW, two.image.pixels_BCHW)


def test_a_replaced_sample_of_a_mixture_comes_from_its_own_source(tmp_path):
    first = shard(tmp_path / "first.tar", range(4), broken=[1])
    second = write_tar(tmp_path / "second.tar", [(f"{n}.txt", b"t") for n in range(12)])
    parts = [
        (Corpus(load_or_build([first], progress=False)), MEMBERS),
        (Corpus(load_or_build([second], progress=False)), Members(text="txt")),
    ]
    samples = SampleSet(parts)
    order = Mixture([[4], [12]], weights=[1, 1], global_batch=4, seed=0)
    found = [one.replaced_by for n in range(12) for one in train(samples, order=order)[n].bad]
    assert len(found) >= 3 and all(name.startswith("first/") for name in found)
