import csv
import io
import time

from mmlight.runs.show.grid import Column, Grid
from mmlight.runs.show.page import render
from mmlight.terminal import Terminal

COLUMNS = (
    *(Column("run"), Column("state", styles={"failed": "red"}), Column("n", align="right")),
    *(Column("empty"), Column("why", wraps=True)),
)


def shown(rows, *, width=1000, colors=False):
    return Grid(COLUMNS, tuple(rows)).text(width=width, colors=colors).splitlines()


def test_columns_are_as_wide_as_their_cells_and_empty_ones_are_left_out():
    assert shown([("a", "failed", 10, "", "x"), ("日本", "on", 9, "", "")]) == [
        "run    state     n   why",
        "────────────────────────",
        "a      failed   10   x",
        "日本   on        9",
    ]


def test_only_columns_that_wrap_are_narrowed_and_nothing_is_cut_off():
    why = "no progress beyond step 0 in 2 starts; x" + "y" * 30
    lines = shown([("a" * 20, "failed", 1, "", why)], width=50)
    assert max(map(len, lines)) <= 50 and lines[2].startswith("a" * 20)
    assert "".join(line[-15:].strip() for line in lines[2:]).count("y") == 31
    assert all(word in " ".join(lines) for word in why.split()[:-1])
    lines = shown([("a" * 60, "failed", 1, "", why)], width=50)
    assert lines[2].startswith("a" * 60)  # too narrow for anything


def test_one_long_reason_pads_no_other_row_of_a_file():
    lines = shown([("a", "failed", 1, "", "why " * 100), ("b", "on", 2, "", "")])
    assert lines[2].count("why") == 100  # still a line
    assert max(len(line) for n, line in enumerate(lines) if n != 2) < 60


def test_states_have_colors_on_a_terminal_and_cells_only_show():
    (_, _, row) = shown([("\x1b[2J\n[red]", "failed", 1, "", "[/]")], colors=True)
    assert row == "\\x1b[2J\\n[red]   \x1b[31mfailed\x1b[0m   1   [/]"


def test_ten_thousand_rows_are_shown_within_a_second():
    rows = [(f"experiment/{n}", "failed", n, "", "why" * 10) for n in range(10_000)]
    began = time.process_time()
    assert len(shown(rows)) == 10_002
    assert time.process_time() - began < 1


def test_a_grid_that_is_too_wide_is_shown_in_parts_that_begin_alike():
    columns = tuple(Column(name, align="right") for name in ("", "run", "a" * 30, "b" * 30))
    grid = Grid(columns, (("1", "x/1", 0.5, "é"),), repeat=2)
    first, second = grid.parts(60)
    assert [first.headings[2:], second.headings] == [["a" * 30], ["", "run", "b" * 30]]
    assert second.rows == (("1", "x/1", "é"),)
    out = io.StringIO()
    Terminal(file=out, width=60).print(grid)
    assert out.getvalue().count("x/1") == 2 and max(map(len, out.getvalue().splitlines())) <= 60


def test_what_a_cell_holds_stays_a_cell_in_every_format():
    cells = ('a|b\n"c", d', "<script>alert(1)</script>", None)
    grid = Grid((Column("x|y"), Column("n", unit="%"), Column("none")), (cells,))
    assert list(csv.reader(io.StringIO(grid.csv()))) == [
        ["x|y", "n %", "none"],
        ['a|b\\n"c", d', cells[1], ""],
    ]
    head, rule, row = grid.markdown().splitlines()
    assert head == r"| x\|y | n % | none |" and rule == "| :-- | :-- | :-- |"
    assert row == r'| a\|b\n"c", d | <script>alert(1)</script> |  |'
    page = render("table.html", title="<b>", grid=grid)
    assert "<script>" not in page and "&lt;script&gt;alert(1)" in page
    assert "<title>&lt;b&gt;</title>" in page and "<th" in page


def test_records_become_columns_as_they_first_appear():
    grid = Grid.of_records([{"a": 1, "b": 0.1 + 0.2}, {"b": None, "c": "x"}])
    assert grid.csv() == "a,b,c\n1,0.30000000000000004,\n,,x\n"
