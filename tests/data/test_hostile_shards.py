"""Training on a shard of attacks: each is left out and named, and costs little memory."""

import io
import json
import pickle
import tarfile
import zlib

import pytest
from multimodal import Recorder, sample_members, text_only, trainer
from shard_files import png, write_tar
from test_damage_fuzz import limited_memory
from test_shards_check import array, huge_png, mp3_of_ten_hours

from mmlight.data.decode.image import ImageSettings
from mmlight.data.members import Members
from mmlight.data.splits.split import Split

GOOD = [f"good{n}" for n in range(6)]
# What is wrong with the member that is read.
BAD = {
    "pixels": "png",
    "hours": "mp3",
    "long": "txt",
    "latin": "txt",
    "deep": "json",
}
# What is harmless as long as nobody unpacks, unpickles or inflates it.
IDLE = ["../../outside", "/etc/outside", "idle"]


class Runs:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def members():
    for number, key in enumerate(GOOD):
        there = sample_members(number)
        yield f"{key}.png", png(9, 9, seed=number)
        yield f"{key}.txt", there["txt"]
        yield f"{key}.json", there["json"]
    yield "pixels.png", huge_png()
    yield "pixels.txt", b"x"
    yield "hours.mp3", mp3_of_ten_hours()
    yield "hours.txt", b"x"
    yield "long.txt", b"a" * 100_000_000
    yield "latin.txt", b"\xff\xfe\xff"
    yield "deep.txt", b"x"
    yield "deep.json", b"[" * 1_000_000
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as file:
        file.addfile(tarfile.TarInfo("evil.txt"))
    for key in IDLE:
        yield f"{key}.txt", key.encode()
        yield f"{key}.pkl", pickle.dumps(Runs())
        yield f"{key}.pth", pickle.dumps(Runs())
        yield f"{key}.npy", array([Runs()])
        yield f"{key}.tar", inner.getvalue()
        yield f"{key}.json.gz", zlib.compress(bytes(50_000_000), 9, wbits=31)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    path = write_tar(folder / "0.tar", members())
    with tarfile.open(path, "a") as file:
        for number, kind in enumerate((tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(f"device{number}.txt")
            info.type = kind
            file.addfile(info)
    return folder


@pytest.mark.parametrize("mode", ["index", "stream"])
def test_attacks_are_left_out_and_named(folder, tmp_path, mode):
    data = text_only(
        folder,
        members=Members(text="txt", image="png", audio="mp3", fields={"n": "json:n"}),
        image=ImageSettings(size=16),
        train=Split(str(folder)),
        mode=mode,
        samples_per_epoch=14 if mode == "stream" else None,
        global_batch_size=7,
        max_bad_fraction=1.0,
    )
    seen = []

    class Noted(Recorder):
        def training_step(self, batch, batch_idx):
            seen.extend(key.partition("/")[2] for key in batch.keys)
            return super().training_step(batch, batch_idx)

    with limited_memory(1 << 30):
        trainer(tmp_path, max_epochs=1).fit(Noted(), data)
    rows = [json.loads(line) for line in (tmp_path / "bad_samples.jsonl").read_text().splitlines()]
    named = {row["key"]: row for row in rows}
    assert set(named) == set(BAD)
    for key, row in named.items():
        assert BAD[key] in row["member"] or row["member"] == "text", row
        assert "Memory" not in row["reason"] and "\n" not in row["reason"]
    assert set(seen) <= {*GOOD, *IDLE} and len(seen) == 14
    assert not any((folder.parent / name).exists() for name in ("outside.txt", "outside.pkl"))
