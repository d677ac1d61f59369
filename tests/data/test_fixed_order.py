"""What lasting runs rely on: these hashes stay as they are, whatever is rewritten underneath."""

from hashlib import sha256

import pytest
from shard_files import text_shard

from mmlight.data.dataset import Rank
from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.splits.split import Split
from mmlight.data.text import TextSettings
from mmlight.text.tokenizer import ByteTokenizer

SIZES = (37, 5, 64, 18, 41)
FINGERPRINT = "21a37e53f577fdbd"
ORDERS = {
    "lanes": "35ec49a9c48fc849",
    "whole": "21b239c645f41b31",
    "mixture": "dc513fee5c8a32d1",
    "buckets": "da21c3f428d3c987",
}
SETTINGS = {
    "lanes": {"window": 8, "num_lanes": 4},
    "whole": {},
    "mixture": {"window": 8},
    "buckets": {"window": 8, "num_lanes": 4, "bucket_batches": 4},
}


def _module(folder, kind):
    for number, size in enumerate(SIZES):
        text_shard(folder / f"{number}.tar", size, first=1000 * number, size=40 + 17 * number)
    train = Split(str(folder))
    if kind == "mixture":
        train = [
            Split(str(folder / "{0,1}.tar"), weight=0.3),
            Split(str(folder / "{2..4}.tar"), weight=0.7),
        ]
    data = ShardDataModule(
        members=Members(text="txt", label="cls"),
        train=train,
        text=TextSettings(tokenizer=ByteTokenizer(), max_tokens=24),
        global_batch_size=8,
        num_workers=0,
        seed=3,
        **SETTINGS[kind],
    )
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.mark.parametrize("kind", list(ORDERS))
def test_two_epochs_are_those_of_every_version(tmp_path, kind):
    data = _module(tmp_path, kind)
    assert data.fingerprint()["train"].startswith(FINGERPRINT)
    for world_size in (1, 2, 4):
        ranks = [data.train_batches(Rank(n, world_size)) for n in range(world_size)]
        digest = sha256()
        for number in range(2 * ranks[0].order.steps_per_epoch):
            for batches in ranks:
                batch = batches[number]
                texts, labels = batch.text.token_ids_NL.tolist(), batch.label_B.tolist()
                rows = zip(batch.keys, texts, labels, strict=True)
                for index, row in zip(batch.index_B.tolist(), rows, strict=True):
                    digest.update(repr((index, *row)).encode())
        assert digest.hexdigest()[:16] == ORDERS[kind], f"{world_size} ranks"
