"""`mmlight shards score` and `caption` with tiny models, on real shards."""

import io
import json

import every_task
import numpy as np
import pytest
import webdataset
from PIL import Image

from mmlight.__main__ import main
from mmlight.data.curation.rewriting import Rewriting
from mmlight.data.packing.write import pack
from mmlight.errors import UserError
from mmlight.interop.embedder import Embedder


def picture(number):
    pixels = np.random.default_rng(number).integers(0, 256, (20, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        name: str(every_task.save(every_task.make(name), folder / f"{name}.ckpt"))
        for name in ("contrastive", "captions")
    }


@pytest.fixture
def shards(tmp_path):
    def sample(number):
        made = {"__key__": f"k{number}", "png": picture(number), "txt": f"thing {number}"}
        return made | ({"json": {"n": number, "deep": {"er": 1.5}}} if number % 2 else {})

    samples = [sample(number) for number in range(7)]
    samples[3]["png"] = b"broken"
    samples[5]["json"] = "[1, 2]"
    del samples[6]["txt"]
    pack(samples, tmp_path / "in", samples_per_shard=3)
    return str(tmp_path / "in")


def run(*arguments):
    return main(["shards", *map(str, arguments)])


def read(folder):
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    samples = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)
    return {sample["__key__"]: sample for sample in samples}


def test_score_writes_how_alike_image_and_text_are(tmp_path, shards, models, capsys):
    out = tmp_path / "out"
    assert run("score", shards, "--model", models["contrastive"], "--out", out, "--workers", 0) == 0
    said = capsys.readouterr().err
    assert "2 samples lack what is read, or can't be decoded" in said
    assert "1 samples have JSON that holds no values by name" in said
    old, new = read(tmp_path / "in"), read(out)
    assert old.keys() == new.keys()
    assert [len(list(out.glob(f"*.{end}"))) for end in ("tar", "index")] == [3, 3]
    embedder = Embedder.load(models["contrastive"])
    for number in (0, 1, 2, 4):
        values = json.loads(new[f"k{number}"]["json"])
        (image,) = embedder.images([picture(number)])
        (text,) = embedder.texts([f"thing {number}"])
        assert values["similarity"] == pytest.approx(float(image @ text), abs=1e-5)
        if number % 2:
            assert values["n"] == number and values["deep"] == {"er": 1.5}
        assert new[f"k{number}"]["png"] == old[f"k{number}"]["png"]
    for number in (3, 5, 6):
        assert "similarity" not in str(new[f"k{number}"].get("json"))
    # What is written can be asked for.
    assert run("filter", "similarity > -2", out, "--out", tmp_path / "kept") == 0
    assert read(tmp_path / "kept").keys() == {"k0", "k1", "k2", "k4"}


def test_a_killed_run_goes_on_behind_the_last_whole_shard(tmp_path, shards, models, monkeypatch):
    arguments = ("score", shards, "--model", models["contrastive"], "--workers", 0, "--out")
    run(*arguments, tmp_path / "whole")
    write, done = Rewriting.write, []

    def dies(self, shard, values):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(shard)
        return write(self, shard, values)

    out = tmp_path / "out"
    monkeypatch.setattr(Rewriting, "write", dies)
    run(*arguments, out)
    assert list(out.glob("*.tar")) == [] and done == [0]

    def counted(self, shard, values):
        done.append(shard)
        return write(self, shard, values)

    monkeypatch.setattr(Rewriting, "write", counted)
    other = ("score", shards, "--model", models["contrastive"], "--name", "other", "--out", out)
    assert run(*other) == 2
    assert run(*arguments, out) == 0
    assert done == [0, 1, 2]
    assert [p.name for p in sorted(out.iterdir())] == [
        p.name for p in sorted((tmp_path / "whole").iterdir())
    ]
    for path in out.glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()


def test_caption_writes_what_the_model_says(tmp_path, shards, models):
    out = tmp_path / "out"
    assert run("caption", shards, "--model", models["captions"], "--out", out, "--workers", 0) == 0
    found = {key: json.loads(sample.get("json", b"{}")) for key, sample in read(out).items()}
    with_caption = [key for key, value in found.items() if "generated" in value]
    assert with_caption == ["k0", "k1", "k2", "k4", "k6"]
    assert all(isinstance(found[key]["generated"], str) for key in with_caption)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("score", "--model", "contrastive", "--pair", "image", "image"), "--pair image image"),
        (("score", "--model", "captions"), "compares no modalities"),
        (("caption", "--model", "contrastive"), "writes no captions"),
        (("score", "--model", "contrastive", "--text", "json:nothing"), "nothing"),
        (("score", "--model", "contrastive", "--batch-size", "0"), "at least 1"),
        (("score", "--model", "contrastive", "--pair", "text", "audio"), "--audio: no sample"),
    ],
)
def test_mistakes_are_one_line(tmp_path, shards, models, capsys, arguments, message):
    given = [models.get(argument, argument) for argument in arguments]
    assert run(given[0], shards, *given[1:], "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert message in said
    assert not (tmp_path / "out").exists()


def test_shards_are_not_written_over(tmp_path, shards, models):
    assert run("score", shards, "--model", models["contrastive"], "--out", shards) == 2
    assert run("score", "nowhere", "--model", models["contrastive"], "--out", tmp_path / "o") == 2


def test_two_processes_do_not_write_the_same_shards(tmp_path, shards):
    import subprocess
    import sys

    from mmlight.data.curation.copying import open_shards

    corpus = open_shards([shards])
    code = (
        "import sys; from mmlight.data.curation.copying import open_shards;"
        "from mmlight.data.curation.rewriting import Rewriting;"
        "from pathlib import Path;"
        "r = Rewriting(open_shards([sys.argv[1]]), Path(sys.argv[2]), about={});"
        "r.held().__enter__()"
    )
    with Rewriting(corpus, tmp_path / "o", about={}).held():
        done = subprocess.run(
            [sys.executable, "-c", code, shards, str(tmp_path / "o")], capture_output=True
        )
    assert b"another process writes there" in done.stderr
    with pytest.raises(UserError, match="begun with other verb"):
        Rewriting(corpus, tmp_path / "o", about={"verb": "x"}).held().__enter__()


def test_dedup_by_a_model_finds_what_is_alike_to_it(tmp_path, shards, models, capsys):
    pixels = np.asarray(Image.open(io.BytesIO(picture(0)))) // 2 * 2
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    pack([{"__key__": "alike", "png": file.getvalue()}], tmp_path / "more")
    both = (shards, tmp_path / "more")
    model = ("--model", models["contrastive"], "--workers", 0, "--least", "0.9999")
    assert run("dedup", *both, *model, "--member", "png") == 0
    said = capsys.readouterr().out
    assert "00000/k0, more/00000/alike" in said.replace("in/", "") and "1 groups" in said
