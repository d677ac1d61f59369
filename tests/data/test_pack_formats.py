"""`mmlight shards pack` on what people have, through the command line; all shards check as good."""

import json
import tracemalloc
from pathlib import Path

import pytest
from shard_files import png

from mmlight.__main__ import main
from mmlight.data.packing.coco import stream_object
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MMLIGHT_INDEX_DIR", raising=False)
    return tmp_path


def write(path, content=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def packed(here, *arguments, out="out"):
    """Pack; return the samples in order, each as its members."""
    assert main(["shards", "pack", *map(str, arguments[:1]), out, *map(str, arguments[1:])]) == 0
    paths = sorted((here / out).glob("*.tar"))
    assert main(["shards", "check", *map(str, paths)]) == 0
    corpus = Corpus(load_or_build(paths, progress=False))
    found = {}
    for number in range(len(corpus)):
        members = corpus.read(number, list(corpus.members(number)))
        key = corpus.key(number).partition("/")[2]
        found[key] = {
            name: json.loads(data) if name == "json" else data for name, data in members.items()
        }
    return found


def refused(capsys, *arguments):
    """Return the one line that a mistake gives; nothing is left behind."""
    capsys.readouterr()
    assert main(["shards", "pack", *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("mmlight: ")
    return said


def names(here, out="out"):
    return (here / out / "classnames.txt").read_text().split("\n")[:-1]


# Tables


def test_blank_rows_are_no_samples_and_an_empty_caption_is_none(here, capsys):
    write(here / "a.png", png(4, 4))
    write(here / "t.csv", "path;caption;label\na.png;x;cat\n;;\na.png;;dog\n; ;\n")
    given = ("t.csv", "--file", "path", "--member", "txt=caption", "--label", "label")
    found = list(packed(here, *given).values())
    assert [sorted(sample) for sample in found] == [["cls", "png", "txt"], ["cls", "png"]]
    assert "left out: 2 rows without any content" in capsys.readouterr().err


def test_blank_rows_need_no_key_but_a_picture_does(here, capsys):
    write(here / "a.png", png(4, 4))
    given = ("--file", "path", "--key", "id")
    write(here / "t.csv", "path;id\na.png;x\n;\n ; \n")
    assert list(packed(here, "t.csv", *given)) == ["x"]
    assert "left out: 2 rows without any content" in capsys.readouterr().err
    write(here / "t.csv", "path;id\na.png;\n")
    assert "line 2: column 'id' is empty" in refused(capsys, "t.csv", "other", *given)


def test_a_key_that_comes_twice_names_both_lines(here, capsys):
    write(here / "t.csv", "id,text\nx,one\ny,two\nx,three\n")
    given = ("--key", "id", "--member", "txt=text", "--samples-per-shard", 1)
    said = refused(capsys, "t.csv", "out", *given)
    assert "table t.csv, line 4: column 'id' holds 'x' again, which line 2 has" in said
    assert not (here / "out").exists()


# Pascal VOC


CORNERS = ("xmin", "ymin", "xmax", "ymax")


def annotation(*objects, size=(20, 10), head=""):
    told = "".join(
        f"<object><name>{name}</name>{extra}<bndbox>"
        + "".join(f"<{k}>{v}</{k}>" for k, v in zip(CORNERS, box, strict=False))
        + "</bndbox></object>"
        for name, box, extra in objects
    )
    width, height = size
    sizes = f"<size><width>{width}</width><height>{height}</height></size>"
    return f"{head}<annotation>{sizes}{told}</annotation>"


@pytest.fixture
def voc(here):
    folder = here / "VOC2007"
    for stem in ("000001", "000002", "000010", "000011"):
        write(folder / f"JPEGImages/{stem}.png", png(20, 10))
    dog, cat = ("dog", (1, 1, 20, 10), ""), ("cat", (3, 2, 8.5, 9), "<difficult>1</difficult>")
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    write(folder / "Annotations/000001.xml", annotation(dog, cat))
    write(folder / "Annotations/000002.xml", annotation())
    write(
        folder / "Annotations/000010.xml",
        annotation(("cat", (2, 2, 5, 5), part), ("cat", (30, 1, 40, 5), "")),
    )
    write(folder / "ImageSets/Main/val.txt", "000010\r\n000001\r\n")
    write(folder / "ImageSets/Main/cat_val.txt", "000010  1\n000001 -1\n")
    return folder


def test_voc_boxes_are_edges_in_pixels_from_zero(here, voc, capsys):
    found = packed(here, voc, "--voc")
    assert list(found) == [f"JPEGImages/{n}" for n in ("000001", "000002", "000010")]
    assert found["JPEGImages/000001"]["json"] == {
        "boxes": [[0, 0, 20, 10], [2, 1, 8.5, 9]],
        "labels": [1, 0],
        "difficult": [0, 1],
    }
    assert found["JPEGImages/000002"]["json"] == {"boxes": [], "labels": []}
    assert found["JPEGImages/000010"]["json"] == {"boxes": [[1, 1, 5, 5]], "labels": [0]}
    assert found["JPEGImages/000010"]["png"] == png(20, 10)
    assert names(here) == ["cat", "dog"]
    said = capsys.readouterr().err
    assert "left out: 1 pictures without an annotation" in said
    assert "left out: 1 boxes without area in their picture" in said


@pytest.mark.parametrize("split", ["val", "cat_val"])
def test_voc_split_takes_the_pictures_of_its_list(here, voc, split):
    assert list(packed(here, voc, "--voc", "--split", split)) == [
        "JPEGImages/000010",
        "JPEGImages/000001",
    ]


def test_voc_numbers_classes_as_another_pack_did(here, voc):
    write(here / "train.txt", "bird\ncat\ndog\n")
    found = packed(here, voc, "--voc", "--class-names", "train.txt", "--exclude", "*10.png")
    assert found["JPEGImages/000001"]["json"]["labels"] == [2, 1]
    assert len(found) == 2 and names(here) == ["bird", "cat", "dog"]


def test_voc_files_may_lie_beside_the_pictures(here):
    write(here / "own/a.b.png", png(20, 10))
    write(here / "own/a.b.xml", annotation(("x", (1, 1, 5, 5), "")))
    assert packed(here, "own", "--voc")["a_b"]["json"]["boxes"] == [[0, 0, 5, 5]]


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (annotation(head=BOMB), "000001.xml: has a DOCTYPE"),
        ("<annotation>", "000001.xml: is no XML"),
        (annotation(("dog", (1, 1, 2), "")), "000001.xml, object 1: has no bndbox"),
        (annotation(("dog", (1, "x", 2, 3), "")), "000001.xml, object 1: has no bndbox"),
        (annotation(("dog", (1, 1, 9, "nan"), "")), "000001.xml, object 1: box "),
        (annotation(("", (1, 1, 9, 9), "")), "object 1: has no name"),
    ],
)
def test_voc_mistakes_name_the_file_and_the_object(here, voc, capsys, text, said):
    write(voc / "Annotations/000001.xml", text)
    assert said in refused(capsys, voc, "out", "--voc")


def test_voc_folders_and_splits_that_are_not_there(here, voc, capsys):
    assert "give VOCdevkit/VOC2007" in refused(capsys, _moved(voc), "out", "--voc")
    voc = here / "VOCdevkit/VOC2007"
    said = refused(capsys, voc, "out", "--voc", "--split", "vall")
    assert "did you mean 'val'" in said
    write(voc / "ImageSets/Main/val.txt", "000099\n")
    assert "has no picture '000099'" in refused(capsys, voc, "out", "--voc", "--split", "val")


def _moved(voc):
    (voc.parent / "VOCdevkit").mkdir()
    voc.rename(voc.parent / "VOCdevkit/VOC2007")
    return "VOCdevkit"


# COCO


def coco(**changes):
    values = {
        "info": {"year": 2017, "n": [1, {"a": "]"}]},
        "images": [
            {"id": 9, "file_name": "a.png", "width": 20, "height": 10},
            {"id": 3, "file_name": "b/c.d.png", "width": 20, "height": 10},
            {"id": 4, "file_name": "e.png"},
        ],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 90, "bbox": [1.5, 2, 3, 4.25], "iscrowd": 0},
            {"id": 2, "image_id": 9, "category_id": 1, "bbox": [0, 0, 5, 5], "iscrowd": 1},
            {"id": 3, "image_id": 9, "category_id": 1, "bbox": [0, 0, 0, 5]},
            {"id": 4, "image_id": 3, "category_id": 1, "bbox": [0, 0, 20, 10],
             "segmentation": [[0, 0, 5, 5, 0, 5]]},
        ],
        "categories": [{"id": 90, "name": "kite"}, {"id": 1, "name": "person"},
                       {"id": 17, "name": "cat"}],
    }  # fmt: skip
    return json.dumps(values | changes)


@pytest.fixture
def pictures(here):
    for name in ("a.png", "b/c.d.png", "e.png"):
        write(here / "val2017" / name, png(20, 10))
    return here / "val2017"


def test_coco_classes_have_no_gaps_and_boxes_are_corners(here, pictures, capsys):
    write(here / "annotations/instances.json", coco())
    found = packed(here, "annotations/instances.json", "--coco", "--images", "val2017")
    assert list(found) == ["a", "b/c_d", "e"]
    assert found["b/c_d"]["json"] == {
        "boxes": [[1.5, 2, 4.5, 6.25], [0, 0, 20, 10]],
        "labels": [2, 0],
    }
    assert found["a"]["json"] == found["e"]["json"] == {"boxes": [], "labels": []}
    assert names(here) == ["person", "cat", "kite"]
    said = capsys.readouterr().err
    for told in ("1 crowds", "1 boxes without area", "1 segmentation of objects"):
        assert f"left out: {told}" in said


def test_coco_lists_may_come_in_any_order_and_beside_the_pictures(here, pictures):
    values = json.loads(coco())
    order = ("annotations", "categories", "info", "images")
    write(pictures / "_annotations.coco.json", json.dumps({k: values[k] for k in order}, indent=1))
    found = packed(here, "val2017/_annotations.coco.json", "--coco", "--exclude", "b")
    assert list(found) == ["a", "e"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"annotations": [{"id": 7, "image_id": 1, "category_id": 1}]}, "annotation 7: image_id 1"),
        ({"annotations": [{"id": 7, "image_id": 3, "category_id": 2}]}, "7: category_id 2 is that"),
        (
            {"annotations": [{"id": 7, "image_id": 3, "category_id": 1, "bbox": [1, 2, "x", 4]}]},
            "annotation 7: its bbox is",
        ),
        ({"annotations": [{"id": 7, "image_id": 3, "category_id": 1}]}, "7: its bbox is None"),
        ({"categories": []}, "has no categories"),
        ({"images": []}, "has no images"),
        ({"images": [{"id": 1}]}, "has no file_name"),
        (
            {"images": [{"id": 1, "file_name": "../x.png"}], "annotations": []},
            "pictures are not in",
        ),
    ],
)
def test_coco_mistakes_name_the_annotation(here, pictures, capsys, changes, said):
    write(pictures / "a.json", coco(**changes))
    assert said in refused(capsys, pictures / "a.json", "out", "--coco")


@pytest.mark.parametrize("text", ["[]", "{", '{"a": [1, 2', '{"a": 1 2}', "nothing", '{"a": }'])
def test_coco_files_that_are_none_are_one_line(here, pictures, capsys, text):
    write(pictures / "a.json", text)
    assert "file " in refused(capsys, pictures / "a.json", "out", "--coco")


def test_long_lists_are_read_in_parts(here):
    polygon = list(range(2000))
    with open("long.json", "w") as file:
        file.write('{"a": [')
        file.write(",".join(json.dumps({"n": n, "p": polygon}) for n in range(400)))
        file.write('], "b": 12345}')
    tracemalloc.start()
    count = sum(entry["n"] == n for n, (_, entry) in enumerate(stream_object(Path("long.json")))
                if isinstance(entry, dict))  # fmt: skip
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 400
    assert peak < 6 << 20, "the file has 4 MB, and its values take 29"


# a row for each box


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "t.csv",
            "filename,width,height,class,xmin,ymin,xmax,ymax\n"
            "a.png,20,10,dog,1,2,5.5,6\nb.png,20,10,cat,0,0,9,9\na.png,20,10,cat,3,3,4,4\n",
        ),
        (
            "t.csv",
            "image;label;x;y;w;h\n.\\a.png;dog;1;2;4,5;4\nb.png;cat;0;0;9;9\na.png;cat;3;3;1;1\n",
        ),
        ("t.csv", "a.png,1,2,5.5,6,dog\nb.png,0,0,9,9,cat\na.png,3,3,4,4,cat\n"),
        (
            "t.jsonl",
            '{"path": "a.png", "x1": 1, "y1": 2, "x2": 5.5, "y2": 6, "name": "dog"}\n'
            '{"path": "b.png", "x1": 0, "y1": 0, "x2": 9, "y2": 9, "name": "cat"}\n'
            '{"path": "a.png", "x1": 3, "y1": 3, "x2": 4, "y2": 4, "name": "cat"}\n',
        ),
    ],
    ids=["tensorflow", "excel", "retinanet", "jsonl"],
)
def test_rows_of_boxes_are_joined_by_picture(here, name, text):
    for picture in "ab":
        write(here / f"pictures/{picture}.png", png(20, 10))
    write(here / name, text)
    found = packed(here, name, "--boxes", "--images", "pictures")
    assert found["a"]["json"] == {"boxes": [[1, 2, 5.5, 6], [3, 3, 4, 4]], "labels": [1, 0]}
    assert found["b"]["json"] == {"boxes": [[0, 0, 9, 9]], "labels": [0]}
    assert names(here) == ["cat", "dog"]


HEAD = "filename,xmin,ymin,xmax,ymax,class\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{HEAD}a.png,1,2,3,x,dog\n", "line 2: column 'ymax' holds 'x', not a number"),
        (f"{HEAD}a.png,1,2,3,,dog\n", "line 2: column 'ymax' holds ''"),
        (f"{HEAD}a.png,1,2,3,4,\n", "line 2: column 'class' is empty"),
        (f"{HEAD},1,2,3,4,dog\n", "line 2: column 'filename' is empty"),
        (f"{HEAD}a.png,.1,.2,.3,.4,dog\n", "no coordinate is above 1"),
        (f"{HEAD}z.png,1,2,3,4,dog\n", "z.png can't be read"),
        ("filename,xmin,ymin,class\na.png,1,2,dog\n", "has no column 'xmax or boxwidth'"),
        (HEAD, "names no picture"),
    ],
)
def test_mistakes_in_rows_of_boxes_name_the_line(here, capsys, text, said):
    write(here / "a.png", png(20, 10))
    write(here / "t.csv", text)
    assert said in refused(capsys, "t.csv", "out", "--boxes")


def test_blank_rows_are_no_boxes(here, capsys):
    write(here / "a.png", png(20, 10))
    write(here / "t.csv", f"{HEAD}a.png,1,2,3,4,dog\n,,,,,\n, ,,,,\n")
    assert packed(here, "t.csv", "--boxes")["a"]["json"]["labels"] == [0]
    assert "left out: 2 rows without any content" in capsys.readouterr().err


def test_a_row_without_a_box_is_a_picture_without_objects(here):
    write(here / "a.png", png(20, 10))
    write(here / "t.csv", f"{HEAD}a.png,,,,,\n")
    assert packed(here, "t.csv", "--boxes")["a"]["json"] == {"boxes": [], "labels": []}


# columns of words and tags


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (
            "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\n# NN I-NP O\n\n\n-DOCSTART- -X- O O\n\n"
            "Rome NNP B-NP B-LOC\n",
            [],
        ),
        ("EU\tB-ORG\n#\tO\n\nRome\tB-LOC\n\n", []),
        ("EU B-ORG\r\n#  O \r\n \r\nRome\u00a0B B-LOC\r\n", []),
        (
            "# sent_id = 1\n# text = EU #\n1\tEU\tB-ORG\n2\t#\tO\n\n# newdoc\n1\tRome\tB-LOC\n",
            [],
        ),
        (
            "# text = EU #\n1-2\tEU#\t_\tX\n1\tEU\tB-ORG\tX\n2\t#\tO\tX\n\n1\tRome\tB-LOC\tX\n",
            ["--tags", "3"],
        ),
        ("B-ORG EU\nO #\n\nB-LOC Rome\n", ["--words", "2", "--tags", "1"]),
    ],
)
def test_columns_become_words_and_tags(here, text, options):
    write(here / "t.conll", text)
    found = packed(here, "t.conll", "--conll", *options)
    rome = "Rome\u00a0B" if "\u00a0" in text else "Rome"
    assert [sample["json"] for sample in found.values()] == [
        {"words": ["EU", "#"], "tags": ["B-ORG", "O"]},
        {"words": [rome], "tags": ["B-LOC"]},
    ]


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (b"EU O\nRome\n\na O\n", [], "line 2: 1 columns, but others have 2"),
        (b"EU\nRome\n", [], "has one column"),
        (b"EU O\n", ["--tags", "3"], "--tags 3: file t.conll has 2 columns"),
        (b"EU O\n", ["--tags", "1"], "are both in column 1"),
        (b"gr\xfcn O\n", [], "--encoding latin-1"),
        (b"\n\n", [], "no lines of words"),
    ],
)
def test_mistakes_in_columns_name_the_line(here, capsys, text, options, said):
    write(here / "t.conll", text)
    assert said in refused(capsys, "t.conll", "out", "--conll", *options)


# a text file for each class


def test_files_of_lines_are_classes(here, capsys):
    write(here / "mr/rt-polarity.pos", '"tis a tale\nfín\n'.encode("latin-1"))
    write(here / "mr/rt-polarity.neg", b"bad , really\n\n")
    write(here / "mr/README.txt", "about")
    assert "not UTF-8" in refused(capsys, "mr", "out", "--label-from-file", "--exclude", "README*")
    found = packed(
        *(here, "mr", "--label-from-file", "--exclude", "README*", "--encoding", "latin-1")
    )
    assert [(s["txt"].decode(), s["cls"]) for s in found.values()] == [
        ("bad , really", b"0"),
        ('"tis a tale', b"1"),
        ("fín", b"1"),
    ]
    assert names(here) == ["neg", "pos"]


# tables and folders


def table(here, rows):
    lines = "".join(f"{n}.png,caption {n},{label}\n" for n, label in enumerate(rows))
    write(here / "t.csv", f"path,caption,kind\n{lines}")
    for number in range(len(rows)):
        write(here / f"{number}.png", png(4, 4))


def test_labels_of_a_table_are_numbered_by_name(here):
    table(here, ["dog", "cat", "", "cat"])
    found = packed(here, "t.csv", "--file", "path", "--label", "kind", "--member", "txt=caption")
    assert [s.get("cls") for s in found.values()] == [b"1", b"0", None, b"0"]
    assert names(here) == ["cat", "dog"]
    write(here / "names.txt", "dog\ncat\n")
    more = ["--label", "kind", "--class-names", "names.txt", "--exclude", "3.png"]
    found = packed(here, "t.csv", "--file", "path", *more, out="b")
    assert [s.get("cls") for s in found.values()] == [b"0", b"1", None]


def test_numbers_are_classes_of_given_names(here, capsys):
    table(here, ["1", "0"])
    write(here / "names.txt", "cat\ndog\n")
    options = ["--file", "path", "--label", "kind", "--class-names", "names.txt"]
    assert [s["cls"] for s in packed(here, "t.csv", *options).values()] == [b"1", b"0"]
    assert names(here) == ["cat", "dog"]
    table(here, ["1", "2"])
    assert "class 2, but --class-names holds 2 names" in refused(capsys, "t.csv", "b", *options)


def test_labels_that_are_numbers_stay_so(here):
    table(here, ["3", "10.0", "007"])
    found = packed(here, "t.csv", "--file", "path", "--label", "kind")
    assert [s["cls"] for s in found.values()] == [b"3", b"10", b"7"]
    assert not (here / "out/classnames.txt").exists()


def test_a_shuffled_table_is_a_permutation_of_its_seed(here):
    table(here, ["a", "b"] * 20)
    options = ["--file", "path", "--member", "txt=caption", "--label", "kind"]
    plain = packed(here, "t.csv", *options)
    first = packed(here, "t.csv", *options, "--shuffle-seed", "1", out="b")
    again = packed(here, "t.csv", *options, "--shuffle-seed", "1", out="c")
    assert list(first.items()) == list(again.items()) != list(plain.items())
    assert dict(sorted(first.items())) == plain


def test_two_pictures_of_one_name_are_two_samples_of_their_class(here, capsys):
    for name in ("red/a.JPG", "red/a.png", "blue/b.png"):
        write(here / "in" / name, png(4, 4))
    found = packed(here, "in", "--label-from-folder")
    assert {key: sample["cls"] for key, sample in found.items()} == {
        "blue/b": b"0",
        "red/a_jpg": b"1",
        "red/a_png": b"1",
    }
    assert "a.JPG and in/red/a.png have one name" in refused(capsys, "in", "other")
    packed(here, "in", "--exclude", "*.JPG", out="other")


def test_dots_in_names_are_none_of_an_ending_and_parts_still_are(here):
    for name in ("Track 2.0 (x).png", "img.0001.png", "a.png", "a.seg.png"):
        write(here / "in" / name, png(4, 4))
    found = packed(here, "in")
    assert {key: list(sample) for key, sample in found.items()} == {
        "Track 2_0 (x)": ["png"],
        "a": ["png", "seg.png"],
        "img_0001": ["png"],
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["in", "out", "--exclude", "nothing*"], "--exclude 'nothing*' matches no file"),
        (["in", "out", "--label", "x"], "--label is for a table or a saved dataset"),
        (["t.csv", "out", "--voc"], "--voc: t.csv is a file, not a folder"),
        (["in", "out", "--coco"], "--coco: in is a folder, not a file"),
        (["t.csv", "out", "--words", "1", "--file", "path"], "--words is for --conll"),
        (["t.csv", "out", "--label", "no", "--file", "path"], "has no column 'no'"),
        (["t.csv", "out", "--file", "path", "--label", "kind", "--class-names", "n.txt"],
         "class 'b' is not in --class-names"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_one_line(here, capsys, arguments, said):
    table(here, ["a", "b"])
    write(here / "in/a.png", png(4, 4))
    write(here / "n.txt", "a\n")
    assert said in refused(capsys, *arguments)
