"""Rows about samples, by stage."""

from mmlight.runs.run.stage_rows import read_stage_rows, write_stage_rows


def test_line_that_cannot_be_read_is_named_and_the_others_are_kept(tmp_path, capsys):
    path = tmp_path / "mistakes.jsonl"
    write_stage_rows(path, [{"key": "a"}], stage="val")
    with path.open("a") as file:
        file.write('{"stage": "val", "ke\n{"key": "without a stage"}\n')
    assert [row["key"] for row in read_stage_rows(path)] == ["a"]
    assert "2 of 3 lines cannot be read" in capsys.readouterr().err
    write_stage_rows(path, [{"key": "b"}], stage="test")
    assert [row["key"] for row in read_stage_rows(path)] == ["a", "b"]
