import json
import os

import pytest
import webdataset
from shard_files import png, write_tar

from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.data.shards.paths import expand
from mmlight.data.shards_command import main
from mmlight.errors import UserError


def shards(folder, count, *, each=10, first=0):
    """`each` samples in each shard, whose keys begin anew in each."""
    for shard in range(count):
        members = []
        for n in range(each):
            meta = {"n": first + shard * each + n, "who": f"s{n % 4}"}
            members.append((f"{n:04d}.png", png(8 + n, 8)))
            members.append((f"{n:04d}.json", json.dumps(meta).encode()))
        write_tar(folder / f"{shard}.tar", members)
    return folder


def read(folder):
    """What webdataset itself reads, by number."""
    found = {}
    urls = [str(path) for path in expand(str(folder))]
    for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False):
        found[json.loads(sample["json"])["n"]] = sample
    return found


def test_filter_writes_what_meets_the_condition_unchanged(tmp_path, capsys):
    source = shards(tmp_path / "in", 3)
    (source / "classnames.txt").write_text("a\nb\n")
    before = {path: path.read_bytes() for path in source.glob("*.tar")}
    out = str(tmp_path / "o")
    assert main(["filter", "width >= 12 and n < 25", str(source), "--out", out]) == 0
    assert "13 of 30 samples meet the condition" in capsys.readouterr().err
    old, new = read(source), read(tmp_path / "o")
    assert sorted(new) == [n for n in range(25) if n % 10 >= 4]
    for number, sample in new.items():
        assert sample["png"] == old[number]["png"] and sample["json"] == old[number]["json"]
    assert (tmp_path / "o/classnames.txt").read_text() == "a\nb\n"
    assert {path: path.read_bytes() for path in source.glob("*.tar")} == before
    main(["check", str(tmp_path / "o")])
    assert "13 samples: all good" in capsys.readouterr().out


def test_a_filter_that_fails_leaves_nothing(tmp_path):
    source = shards(tmp_path / "in", 1)
    for text, message in (("width > 900", "no sample meets it"), ("widthh > 1", "no sample has")):
        with pytest.raises(UserError, match=message):
            main(["filter", text, str(source), "--out", str(tmp_path / "o")])
    assert not (tmp_path / "o").exists()
    with pytest.raises(UserError, match="holds the shards that are read"):
        main(["filter", "width > 1", str(source), "--out", str(source), "--overwrite"])
    load_or_build(expand(str(source)))
    path = source / "0.tar"
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[700] ^= 255
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(OSError, match="is damaged"):
        main(["filter", "width > 1", str(source), "--out", str(tmp_path / "o")])
    assert not (tmp_path / "o").exists()


def test_split_by_key_keeps_every_sample_once_and_in_its_part(tmp_path, capsys):
    source = shards(tmp_path / "in", 2, each=100)
    out = tmp_path / "o"
    arguments = ["--out", str(out), "--shares", "train=0.8", "val=0.2", "--seed", "3"]
    assert main(["split", str(source), *arguments]) == 0
    train, val = read(out / "train"), read(out / "val")
    assert sorted([*train, *val]) == list(range(200)) and not train.keys() & val.keys()
    assert 20 < len(val) < 60
    assert sorted(path.name for path in out.iterdir()) == ["train", "val"]
    assert all(
        (out / "val" / f"{path.name}.index").exists() for path in (out / "val").glob("*.tar")
    )
    # The same samples beside others stay where they were.
    more = shards(tmp_path / "more", 1, each=100)
    main(["split", str(more), *arguments[:1], str(tmp_path / "p"), *arguments[2:]])
    again = read(tmp_path / "p" / "val")
    assert again.keys() == {n for n in val if n < 100}
    capsys.readouterr()


def test_a_part_that_is_split_again_has_the_shares_that_are_asked(tmp_path):
    source = shards(tmp_path / "in", 1, each=200)
    main(["split", str(source), "--out", str(tmp_path / "o"), "--shares", "rest=0.8", "test=0.2"])
    again = ["--out", str(tmp_path / "p"), "--shares", "train=0.7", "val=0.3"]
    main(["split", str(tmp_path / "o/rest"), *again])
    rest, val = read(tmp_path / "o/rest"), read(tmp_path / "p/val")
    assert 0.2 < len(val) / len(rest) < 0.4
    again = ["--out", str(tmp_path / "q"), "--shares", "rest=0.8", "test=0.2"]
    with pytest.raises(UserError, match="give another --seed"):
        main(["split", str(tmp_path / "o/rest"), *again])


def test_split_by_group_puts_no_group_into_two_parts(tmp_path, capsys):
    source = shards(tmp_path / "in", 1, each=40)
    out = tmp_path / "o"
    arguments = ["--shares", "a=0.5", "b=0.5", "--by", "json:who", "--seed", "1"]
    assert main(["split", str(source), "--out", str(out), *arguments]) == 0
    assert "groups" in capsys.readouterr().err
    groups = [{json.loads(s["json"])["who"] for s in read(out / p).values()} for p in "ab"]
    assert groups[0] and groups[1] and not groups[0] & groups[1]
    with pytest.raises(UserError, match="there is a already"):
        main(["split", str(source), "--out", str(out), *arguments])


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (["train=0.9"], "two or more"),
        (["train=0.9", "val=0.2"], "are 1.1 together"),
        (["train", "val=0.2"], "write NAME=SHARE"),
        (["../x=0.5", "y=0.5"], "write NAME=SHARE"),
        (["x=0.5", "x=0.5"], "comes twice"),
        (["x=0.999999", "y=0.000001"], "no sample falls into this part"),
    ],
)
def test_shares_that_are_none(tmp_path, shares, message):
    source = shards_of_ten(tmp_path)
    with pytest.raises(UserError, match=message):
        main(["split", str(source), "--out", str(tmp_path / "o"), "--shares", *shares])
    assert not (tmp_path / "o").exists()


def shards_of_ten(tmp_path):
    return shards(tmp_path / "in", 1)


def test_merge_rebalances_and_keeps_equal_keys_apart(tmp_path, capsys):
    one, two = shards(tmp_path / "one", 2, each=7), shards(tmp_path / "two", 1, each=9, first=14)
    arguments = ["merge", str(one), str(two), "--out", str(tmp_path / "o")]
    assert main([*arguments, "--samples-per-shard", "5"]) == 0
    indexes = load_or_build(expand(str(tmp_path / "o")))
    assert [shard.num_samples for shard in indexes] == [5, 5, 5, 5, 3]
    corpus = Corpus(indexes)
    keys = [corpus.origin(number)[1] for number in range(23)]
    assert len(set(keys)) == 23 and "two/0/0000" in keys and "0008" in keys
    assert sorted(read(tmp_path / "o")) == list(range(23))
    capsys.readouterr()


def test_merge_refuses_labels_that_mean_different_classes(tmp_path):
    for name, classes in (("a", "cat\ndog\n"), ("b", "dog\ncat\n")):
        write_tar(tmp_path / name / "0.tar", [("0.cls", b"1")])
        (tmp_path / name / "classnames.txt").write_text(classes)
    with pytest.raises(UserError, match="mean different classes"):
        main(["merge", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "o")])


def test_class_names_one_folder_up_are_compared_and_carried_along(tmp_path):
    for name, classes in (("a", "cat\ndog\n"), ("b", "dog\ncat\n")):
        write_tar(tmp_path / name / "train/0.tar", [("0.cls", b"1")])
        (tmp_path / name / "classnames.txt").write_text(classes)
    one, other = (str(tmp_path / name / "train") for name in "ab")
    with pytest.raises(UserError, match="mean different classes"):
        main(["merge", one, other, "--out", str(tmp_path / "o")])
    assert main(["filter", "cls == '1'", one, "--out", str(tmp_path / "p")]) == 0
    assert (tmp_path / "p/classnames.txt").read_text() == "cat\ndog\n"


def test_what_has_no_labels_goes_with_any_classes(tmp_path):
    write_tar(tmp_path / "a/0.tar", [("0.cls", b"1")])
    (tmp_path / "a/classnames.txt").write_text("cat\ndog\n")
    write_tar(tmp_path / "b/0.tar", [("9.txt", b"x")])
    given = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert main(["merge", *given, "--out", str(tmp_path / "o")]) == 0
    assert (tmp_path / "o/classnames.txt").read_text() == "cat\ndog\n"


def test_keys_that_lead_out_of_a_folder_are_not_written_on(tmp_path):
    path = write_tar(tmp_path / "0.tar", [("../../x.txt", b"x"), ("y.txt", b"y")])
    with pytest.raises(UserError, match="leads out of"):
        main(["merge", str(path), "--out", str(tmp_path / "o")])
    assert not (tmp_path / "o").exists()
