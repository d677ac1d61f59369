import io
import json

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from shard_files import write_tar

from mmlight.data.curation.dedup import close_pairs, dhash, joined, near_hashes
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.data.shards.paths import expand
from mmlight.data.shards_command import main
from mmlight.errors import UserError


def scene(seed, *, size=(96, 64), format="PNG", light=1.0, **settings):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((192, 128), Image.Resampling.BICUBIC).resize(size)
    file = io.BytesIO()
    ImageEnhance.Brightness(image).enhance(light).save(file, format, **settings)
    return file.getvalue()


@pytest.fixture
def shards(tmp_path):
    write_tar(
        tmp_path / "in" / "0.tar",
        [
            *((f"{n}.png", scene(n)) for n in range(5)),
            ("same.png", scene(2)),
            ("same.txt", b"another caption"),
        ],
    )
    write_tar(
        tmp_path / "in" / "1.tar",
        [
            ("small.jpg", scene(3, size=(60, 40), format="JPEG", quality=80)),
            ("dark.png", scene(4, light=0.8)),
            ("same2.png", scene(2)),
            ("broken.png", b"no image"),
        ],
    )
    return str(tmp_path / "in")


def test_equal_bytes_are_doubles(tmp_path, shards, capsys):
    report = tmp_path / "doubles.jsonl"
    assert main(["dedup", shards, "--report", str(report)]) == 0
    assert "10 samples: 1 groups, 2 samples too many (20.0%)" in capsys.readouterr().out
    assert json.loads(report.read_text()) == ["0/2", "0/same", "1/same2"]
    assert main(["dedup", shards, "--member", "txt"]) == 0
    assert "0 groups" in capsys.readouterr().out
    with pytest.raises(UserError, match="--member jpeg"):
        main(["dedup", shards, "--member", "jpeg"])


def test_near_doubles_are_other_sizes_formats_and_light(tmp_path, shards, capsys):
    out = tmp_path / "out"
    assert main(["dedup", shards, "--near", "6", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "0/3, 1/small" in said and "0/4, 1/dark" in said and "3 groups" in said
    corpus = Corpus(load_or_build(expand(str(out))))
    keys = sorted(corpus.origin(number)[1] for number in range(len(corpus)))
    assert keys == ["0", "1", "2", "3", "4", "broken"]


def test_near_hashes_equal_a_search_of_all_pairs():
    draws = np.random.default_rng(0)
    hash_N = draws.integers(0, 2**63, 300, dtype=np.uint64)
    for row in range(100, 200):  # some bits of those before
        flips = draws.choice(64, draws.integers(0, 9), replace=False)
        hash_N[row] = hash_N[row - 100] ^ np.uint64(sum(1 << int(bit) for bit in flips))
    hash_N[250:260] = hash_N[0]
    for most in (0, 3, 7):
        distance = np.bitwise_count(hash_N[:, None] ^ hash_N[None, :])
        wanted = [(a, b) for a, b in np.argwhere(distance <= most).tolist() if a < b]
        assert joined(near_hashes(hash_N, most=most)) == joined(wanted)


def test_close_features_are_found_once():
    feature_ND = np.random.default_rng(0).normal(size=(2500, 8)).astype(np.float32)
    feature_ND[2400] = feature_ND[3] + 0.01
    feature_ND /= np.linalg.norm(feature_ND, axis=1, keepdims=True)
    assert (3, 2400) in list(close_pairs(feature_ND, least=0.999))
    wanted = np.argwhere(np.triu(feature_ND @ feature_ND.T, 1) >= 0.97).tolist()
    assert sorted(map(list, close_pairs(feature_ND, least=0.97))) == wanted


def test_groups_are_joined_through_others():
    assert joined([(5, 6), (1, 2), (2, 6), (8, 9)]) == [[1, 2, 5, 6], [8, 9]]
    assert joined([]) == []


def test_the_hash_is_that_of_what_is_seen():
    distances = [
        (dhash(scene(1)) ^ other).bit_count()
        for other in (
            dhash(scene(1, size=(200, 150))),
            dhash(scene(1, format="JPEG", quality=50)),
            dhash(scene(1, light=0.7)),
        )
    ]
    assert max(distances) <= 6
    others = [(dhash(scene(1)) ^ dhash(scene(n))).bit_count() for n in range(2, 12)]
    assert min(others) > 12
