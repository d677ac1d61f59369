import hashlib
import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmlight.__main__ import main as mmlight
from mmlight.data.scenes.shards import SceneSettings, make
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.data.shards.paths import expand

SMALL = SceneSettings(samples=300, eval_samples=8)


def _digests(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def _samples(shard):
    samples = {}
    with tarfile.open(shard) as tar:
        for member in tar:
            key, extension = member.name.split(".", 1)
            samples.setdefault(key, {})[extension] = tar.extractfile(member).read()
    return samples


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("scenes") / "deeper" / "scenes"
    assert make(out, settings=SMALL, workers=2, progress=False)
    return out


def test_bytes_do_not_depend_on_the_number_of_processes(made, tmp_path):
    make(tmp_path / "alone", settings=SMALL, workers=1, progress=False)
    assert _digests(tmp_path / "alone") == _digests(made)


def test_another_seed_makes_other_samples_in_every_split(made, tmp_path):
    make(tmp_path / "s", settings=SceneSettings(8, 8, seed=1), workers=1, progress=False)
    make(tmp_path / "t", settings=SceneSettings(8, 8, seed=2), workers=1, progress=False)
    one, two = _digests(tmp_path / "s"), _digests(tmp_path / "t")
    assert [name for name in one if one[name] == two[name]] == ["classnames.txt"]


def test_shards_of_train_follow_each_other(made):
    shards = sorted((made / "train").iterdir())
    assert [s.name for s in shards] == ["00000.tar", "00001.tar"]
    keys = [key for shard in shards for key in _samples(shard)]
    assert keys == [f"{i:06d}" for i in range(300)]


def test_training_reads_what_was_written(made, tmp_path):
    shutil.copytree(made / "train", tmp_path / "train")
    indexes = load_or_build(expand(str(tmp_path / "train" / "*.tar")), progress=False)
    corpus = Corpus(indexes)
    assert len(corpus) == 300
    assert corpus.extensions() == dict.fromkeys(("jpg", "txt", "flac", "cls", "json"), 300)


def test_members_of_a_sample_agree(made):
    names = (made / "classnames.txt").read_text().splitlines()
    for sample in _samples(made / "test" / "00000.tar").values():
        assert list(sample) == ["jpg", "txt", "flac", "cls", "json"]
        notes = json.loads(sample["json"])
        assert sample["txt"].decode() == notes["caption"] == notes["captions"][0]
        assert names[int(sample["cls"])] == notes["labels"][0] == notes["objects"][0]["label"]
        assert len(notes["tokens"]) == len(notes["tags"])
        assert notes["boxes"] == [o["box"] for o in notes["objects"]]
        assert all(o["held_out"] for o in notes["objects"])
        said = [notes["labels"][0], notes["relation"], notes["labels"][1]]
        assert notes["transcript"] == " ".join(said)
        picture = Image.open(io.BytesIO(sample["jpg"]))
        assert picture.size == (notes["width"], notes["height"])
        wave, rate = soundfile.read(io.BytesIO(sample["flac"]))
        assert rate == notes["sample_rate_hz"]
        assert len(wave) / rate == pytest.approx(notes["duration_s"], abs=1e-3)


def test_the_picture_shows_the_colour_that_is_named(made):
    dominant = {"red": 0, "green": 1, "blue": 2}
    checked = 0
    for sample in _samples(made / "train" / "00000.tar").values():
        pixels = np.asarray(Image.open(io.BytesIO(sample["jpg"])), dtype=int)
        for thing in json.loads(sample["json"])["objects"]:
            if thing["colour"] in dominant and thing["shape"] in ("circle", "square", "heart"):
                x0, y0, x1, y1 = thing["box"]
                centre = pixels[(y0 + y1) // 2, (x0 + x1) // 2]
                assert centre.argmax() == dominant[thing["colour"]]
                checked += 1
    assert checked > 30


def test_a_second_run_leaves_the_data_set_alone(made, capsys):
    before = {p: p.stat().st_mtime_ns for p in made.rglob("*")}
    assert mmlight(["scenes", str(made), "--samples", "300", "--eval-samples", "8"]) == 0
    assert "already there" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in made.rglob("*")} == before


def _refused(capsys, *arguments):
    assert mmlight(["scenes", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return error


def test_other_settings_are_refused_and_named(made, capsys):
    error = _refused(capsys, made, "--samples", 300, "--eval-samples", 8, "--seed", 4)
    assert "seed" in error and "samples" not in error.split("(")[1]


def test_a_folder_with_other_things_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "other things" in _refused(capsys, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_lost_shard_is_noticed(tmp_path, capsys):
    make(tmp_path / "out", settings=SceneSettings(4, 4), workers=1, progress=False)
    (tmp_path / "out/val/00000.tar").unlink()
    error = _refused(capsys, tmp_path / "out", "--samples", 4, "--eval-samples", 4)
    assert "val/00000.tar" in error


@pytest.mark.parametrize(
    ("option", "value"),
    [("--samples", 0), ("--eval-samples", 481), ("--seed", -1), ("--workers", 0)],
)
def test_values_out_of_range_are_refused(tmp_path, capsys, option, value):
    assert option in _refused(capsys, tmp_path / "out", option, value)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("mmlight.data.scenes.shards.soundfile.write", fail)
    with pytest.raises(OSError, match="disk full"):
        make(tmp_path / "out", settings=SceneSettings(4, 4), workers=1, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    assert make(tmp_path / "out", settings=SceneSettings(4, 4), workers=1, progress=False)
    assert (tmp_path / "out/test/00000.tar").is_file()


def test_train_shows_every_combination_only_where_that_is_asked_for(tmp_path, capsys):
    given = ["--samples", "60", "--eval-samples", "4", "--workers", "1"]
    for name, more in (("usual", []), ("all", ["--all-combinations"])):
        assert mmlight(["scenes", str(tmp_path / name), *given, *more]) == 0
    held_out = {}
    for name in ("usual", "all"):
        samples = _samples(tmp_path / name / "train/00000.tar").values()
        objects = [o for s in samples for o in json.loads(s["json"])["objects"]]
        held_out[name] = sum(o["held_out"] for o in objects)
    assert held_out["usual"] == 0 < held_out["all"]
    # What lies there already tells that it was made otherwise, either way.
    for name, more in (("usual", ["--all-combinations"]), ("all", [])):
        assert mmlight(["scenes", str(tmp_path / name), *given, *more]) == 2
        assert "(all_combinations)" in capsys.readouterr().err
    assert "all_combinations" not in (tmp_path / "usual/scenes.json").read_text()
