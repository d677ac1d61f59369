from mmlight.runs.wandb.sent_rows import SentRows


def sent(path, rows):
    rows_file = SentRows(path)
    for step, names in rows:
        rows_file.add(step, names)


def test_only_values_that_have_not_arrived_are_missing(tmp_path):
    path = tmp_path / "rows.jsonl"
    sent(path, [(1, ["train/loss"]), (2, ["train/loss"]), (2, ["val/loss"]), (3, ["train/loss"])])
    again = SentRows(path)
    again.keep(2)  # the last two rows never came
    assert again.missing(1, ["train/loss"]) == []
    assert again.missing(2, ["train/loss", "val/loss"]) == ["val/loss"]
    assert again.missing(3, ["train/loss"]) == ["train/loss"]


def test_the_list_goes_on_behind_the_rows_that_arrived(tmp_path):
    path = tmp_path / "rows.jsonl"
    sent(path, [(1, ["a"]), (2, ["a"]), (3, ["a"])])
    second = SentRows(path)
    second.keep(1)
    second.add(2, ["a"])
    third = SentRows(path)
    third.keep(2)
    assert [third.missing(step, ["a"]) for step in (1, 2, 3)] == [[], [], ["a"]]


def test_a_process_does_not_hold_back_what_it_sent_itself(tmp_path):
    rows = SentRows(tmp_path / "rows.jsonl")
    rows.keep(0)
    rows.add(5, ["pictures/curves"])
    assert rows.missing(5, ["pictures/curves"]) == ["pictures/curves"]


def test_a_line_that_a_killed_process_began_is_dropped(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('[1, ["a"]]\n[2, ["a')
    rows = SentRows(path)
    rows.keep(9)
    rows.add(2, ["a"])
    assert path.read_text() == '[1, ["a"]]\n[2, ["a"]]\n'


def test_line_that_cannot_be_read_keeps_its_place(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('[1, ["a"]]\n[2, ["a\n[3, ["a"]]\n')
    again = SentRows(path)
    again.keep(3)
    assert "cannot be read" in capsys.readouterr().err
    assert [again.missing(step, ["a"]) for step in (1, 2, 3)] == [[], ["a"], []]
    again.add(4, ["a"])
    assert path.read_text().count("\n") == 4
