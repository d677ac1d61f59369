import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmlight.data.packing.table_file import read_rows
from mmlight.errors import UserError


def rows(path, *columns, **settings):
    return [
        tuple(row.values[name] for name in columns)
        for row in read_rows(path, columns=columns, **settings)
    ]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "text",
    [
        "path,text\na.png,\"ä, b\"\r\nc.png,1e3\n",
        "path;text\r\na.png;ä, b\r\nc.png;1e3\r\n",
        "sep=;\r\npath;text\r\na.png;ä, b\r\nc.png;1e3\r\n",
        "sep=|\npath|text\na.png|ä, b\nc.png|1e3\n",
        "path\ttext\na.png\tä, b\nc.png\t1e3\n",
        "text;number,5;path;\nä, b;1,5;a.png;\n1e3;2,5;c.png;\n",
    ],
)  # fmt: skip
def test_what_excel_writes_is_read(tmp_path, text, encoding):
    path = write(tmp_path / "t.csv", text, encoding)
    assert rows(path, "path", "text") == [("a.png", "ä, b"), ("c.png", "1e3")]


def test_quotation_marks_of_a_tsv_are_text_unless_a_writer_quoted(tmp_path):
    lines = ['"a sign', "a dog", 'a "big" cat', 'six 6"', '"all of it"', '"he said ""no"""', '""']
    text = "text\tlabel\n" + "".join(f"{line}\t{n}\n" for n, line in enumerate(lines))
    found = rows(write(tmp_path / "t.tsv", text), "text", "label")
    assert found == [(line if n != 5 else 'he said "no"', str(n)) for n, line in enumerate(lines)]
    quoted = '"text"\t"label"\n"a\tb"\t"1"\n"c ""d"""\t"2"\n'
    path = write(tmp_path / "q.tsv", quoted)
    assert rows(path, "text", "label") == [("a\tb", "1"), ('c "d"', "2")]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", 'a,b\n1,x\n2,"open\n3,y\n', "line 3 can't be read: .*written twice"),
        ("t.csv", 'a,b\n"\n1",x\n"he "no,y\n', "line 4 can't be read"),
        ("t.csv", "a,b\n1,x\n2\n", "line 3: 1 fields, but 2 names"),
        ("t.tsv", "a\tb\n1\tx\ty\n", "line 2: 3 fields, but 2 names"),
        ("t.csv", "a,b,b\n1,2,3\n", "two columns 'b'"),
        ("t.csv", "a;c\n1;2\n", "no column 'b'.*: a, c"),
        ("t.jsonl", '{"a": 1, "b": 2}\n\n{"a": 1, "a": 3, "b": 2}\n', "line 3: .*'a' comes twice"),
    ],
)
def test_mistakes_name_the_line(tmp_path, name, text, said):
    with pytest.raises(UserError, match=said) as error:
        rows(write(tmp_path / name, text), "a", "b")
    assert "\n" not in str(error.value)


def test_another_encoding_is_named(tmp_path):
    path = write(tmp_path / "t.csv", "a;b\nx;grün\n", "cp1252")
    with pytest.raises(UserError, match=r"not UTF-8 text .*--encoding latin-1"):
        rows(path, "a", "b")
    assert rows(path, "a", "b", encoding="cp1252") == [("x", "grün")]
    with pytest.raises(UserError, match="--encoding nonsense: there is none"):
        rows(path, "a", "b", encoding="nonsense")


def test_numbers_that_are_none_are_missing(tmp_path):
    path = write(tmp_path / "t.jsonl", '{"a": NaN}\n{"a": null}\n{"a": "NaN"}\n{"a": 1.5}\n')
    assert rows(path, "a") == [(None,), (None,), ("NaN",), (1.5,)]
    pq.write_table(pa.table({"a": [float("nan"), 1.0]}), tmp_path / "t.parquet")
    assert rows(tmp_path / "t.parquet", "a") == [(None,), (1.0,)]


def test_columns_nobody_asks_for_may_come_twice(tmp_path):
    assert rows(write(tmp_path / "t.csv", "a,,\n1,,\n"), "a") == [("1",)]
    line = json.dumps({"a": "\ufefftext"})
    assert rows(write(tmp_path / "t.jsonl", line, "utf-8-sig"), "a") == [("\ufefftext",)]
