"""`mmlight init`: who has only a wheel begins with it."""

import shlex
import sys
import tomllib
from pathlib import Path

import cli_data
import pytest
import yaml

from mmlight import compose, own_modules
from mmlight.commands import init
from mmlight.data.own.look import look
from mmlight.errors import UserError

ROOT = Path(__file__).parents[2]


def write(path, data=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def photos(folder, *, count=24):
    """A folder per class, with pictures."""
    names = list(cli_data.COLOURS)
    for number in range(count):
        sample = cli_data.make_sample(number)
        write(folder / names[number % 4] / f"{number}.png", sample["png"])
    return folder


def pairs(folder, ending="png"):
    """Pictures or sounds, each with a text of the same name."""
    for number in range(24):
        sample = cli_data.make_sample(number)
        write(folder / f"{number}.{ending}", sample[ending])
        write(folder / f"{number}.txt", sample["txt"])
    return folder


def texts(folder):
    """Texts in folders of classes, split already."""
    for number in range(24):
        split = "train" if number < 16 else "dev"
        write(folder / split / "ab"[number % 2] / f"{number}.txt", b"some words")
    return folder


def shards(folder):
    data = cli_data.write_data(folder)
    return data


def told(capsys):
    """Return the commands that `init` says come next."""
    lines = capsys.readouterr().out.partition("next:\n")[2].splitlines()
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(own_modules, "_allowed", set())
    yield tmp_path
    sys.modules.pop("my_module", None)


def test_the_wheel_holds_every_folder_of_experiments_that_init_writes():
    with open(ROOT / "pyproject.toml", "rb") as file:
        wheel = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {f: f"mmlight/material/{f}" for f in init._FOLDERS}
    beside = {p.relative_to(ROOT).parts[1] for p in ROOT.glob("experiments/**/*.yaml")}
    assert {f"experiments/{name}" for name in beside} == {
        f for f in init._FOLDERS if f.startswith("experiments/")
    }


def test_experiments_of_the_new_folder_extend_one_another_and_what_is_there_is_kept(folder, capsys):
    write(folder / "lab/my_module.py", b"# mine\n")
    assert init.main(["lab"]) == 0
    assert (folder / "lab/my_module.py").read_text() == "# mine\n"
    for path in sorted((folder / "lab/experiments").rglob("*.yaml")):
        assert compose.expand(path)
        source = ROOT / path.relative_to(folder / "lab")
        assert path.read_bytes() == source.read_bytes()
    assert (folder / "lab/slurm/clusters/local.yaml").is_file()
    assert init.main(["lab"]) == 0
    assert "lab: 0 files" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "files", "steps"),
    [
        (photos, ["finetune/mine", "own/mine_focal"], ["own/mine_focal"]),
        (pairs, ["pretrain/mine"], ["pretrain/mine"]),
        (texts, ["finetune/mine", "own/mine_focal"], ["finetune/mine"]),
        (shards, ["finetune/mine", "own/mine_focal", "pretrain/mine"], ["pretrain/mine"]),
    ],
)
def test_what_init_says_comes_next_trains_on_ones_own_data(folder, capsys, make, files, steps):
    make(folder / "own data")
    assert init.main(["lab", "--data", "own data", "--name", "mine"]) == 0
    cd, *commands = told(capsys)
    assert cd == ["cd", "lab"]
    fits = [c for c in commands if c[1] == "fit"]
    assert sorted(c[-1] for c in fits) == sorted(f"experiments/{f}.yaml" for f in files)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "lab")
        for command in (c for c in commands if c[1] == "shards"):
            assert cli_data.run_in_process(*command[1:]) == 0
        for path in steps:
            end = ("--trainer.max_steps", "1", "--trainer.limit_val_batches", "1")
            assert cli_data.run_in_process("fit", "-c", f"experiments/{path}.yaml", *end) == 0
            (run,) = (folder / "lab/runs" / Path(path).name).iterdir()
            assert list((run / "checkpoints").glob("*.ckpt"))


def test_files_whose_names_hold_dots_are_members_as_pack_writes_them(folder, capsys):
    photos(folder / "pics", count=8)
    for number, path in enumerate(sorted((folder / "pics").rglob("*.png"))):
        path.rename(path.with_name(f"Screenshot 2024.01.{number:02d}.png"))
    assert init.main(["lab", "--data", "pics"]) == 0
    out = capsys.readouterr().out
    assert "train 8 samples: image (png), labels" in out


def test_a_picture_beside_class_folders_is_named(folder):
    photos(folder / "pics", count=8)
    next((folder / "pics").rglob("*.png")).rename(folder / "pics/stray.png")
    with pytest.raises(UserError, match=r"'stray\.png' lies beside 4 folders"):
        init.main(["lab", "--data", "pics"])


def test_a_table_of_another_encoding_is_read_and_packed_so(folder, capsys):
    rows = "".join(f"Stra\xdfe {n};{'ab'[n % 2]}\n" for n in range(12))
    write(folder / "t.csv", f"text;label\n{rows}".encode("cp1252"))
    with pytest.raises(UserError, match="--encoding latin-1 or cp1252"):
        init.main(["lab", "--data", "t.csv"])
    assert init.main(["lab", "--data", "t.csv", "--encoding", "cp1252"]) == 0
    _, packing, *_ = told(capsys)
    assert packing[-2:] == ["--encoding", "cp1252"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "lab")
        assert cli_data.run_in_process(*packing[1:]) == 0
    with pytest.raises(UserError, match="--encoding is for --data"):
        init.main(["lab", "--encoding", "cp1252"])


def test_what_is_found_is_said_in_lines(folder, capsys):
    photos(folder / "pics", count=24)
    assert init.main([".", "--data", "pics"]) == 0
    out = capsys.readouterr().out
    assert "pics: train 24 samples: image (png), labels" in out
    assert "4 class folders: blue 6, green 6, grey 6, red 6" in out
    assert "cd " not in out
    data = yaml.safe_load((folder / "experiments/data/pics.yaml").read_text())["data"]["init_args"]
    assert data["train"] == {"shards": "data/pics/train", "without": {"fold:5": 0}}
    assert data["val"] == {"shards": "data/pics/train", "only": {"fold:5": 0}}
    (folder / "experiments/data/pics.yaml").write_text("data: {}\n")
    with pytest.raises(UserError, match=r"pics.yaml is there already and differs; --name"):
        init.main([".", "--data", "pics"])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "x: holds nothing of what can be learned from: a folder per class"),
        ({"a.png": b"", "b.png": b""}, "image alone, without labels or captions"),
        ({"a.csv": b"x", "b.csv": b"x"}, r"several tables \(a.csv, b.csv\); name one"),
        ({"a.csv": b"image,label\n"}, "a.csv: has no row"),
        ({"a.csv": b"image,label\n1.png,a\n2.png,b\n"}, "column image: there is no file"),
        ({"train/a.tar": b"no tar"}, "train/a.tar: "),
    ],
)
def test_what_cannot_be_learned_from_is_one_line(folder, files, said):
    (folder / "x").mkdir()
    for name, data in files.items():
        write(folder / "x" / name, data)
    with pytest.raises(UserError, match=said):
        init.main(["lab", "--data", "x"])
    assert not (folder / "lab").exists()
    with pytest.raises(UserError, match="nowhere: does not exist"):
        look(folder / "nowhere")
    with pytest.raises(UserError, match=r"notes\.md: is no folder, table or shard"):
        look(write(folder / "notes.md"))


def test_columns_are_known_by_what_they_hold(folder):
    names = list(cli_data.COLOURS)
    rows = ["file,what,kind of thing,id"]
    for number in range(40):
        sample = cli_data.make_sample(number)
        write(folder / f"x/pics/{number}.png", sample["png"])
        cells = (f"pics/{number}.png", f"{sample['txt'].decode()} thing", names[number % 4], number)
        rows.append(",".join(map(str, cells)))
    table = write(folder / "x/all.csv", "\n".join(rows).encode())
    found = look(table)
    assert found.members == {"image": ["png"], "text": ["txt"]} and found.has_labels
    assert found.sizes == {"train": 40}
    assert found.packs["train"] == [
        *(str(table), "--file", "file", "--member", "txt=what"),
        *("--label", "kind of thing", "--shuffle-seed", "0"),
    ]
    assert found.lines[-1] == "all.csv: not used: id"


def test_blank_rows_of_a_table_are_no_samples(folder):
    for number in range(4):
        write(folder / f"x/{number}.png", cli_data.make_sample(number)["png"])
    rows = "".join(f"{number}.png;a thing\n;\n;\n" for number in range(4))
    found = look(write(folder / "x/t.csv", f"file;caption\n{rows}".encode()))
    assert found.sizes == {"train": 4} and found.members == {"image": ["png"], "text": ["txt"]}
